"""A bounded number of files kept open for reading, shared by threads.

A file is closed when it falls out of the bound and nobody reads it any more. A forked child starts with
an empty set and a fresh lock: whatever another thread was doing at the fork cannot block it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from . import disk


class _File:
    __slots__ = ("fd", "is_dropped", "readers")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.readers = 0
        self.is_dropped = False


class OpenFiles:
    """At most `limit` idle files stay open; files being read come on top."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()  # the least recently used one first

    @contextmanager
    def open(self, path: str) -> Iterator[int]:
        """The descriptor of the file, which stays open at least until the block ends."""
        file = self._acquire(path)
        try:
            yield file.fd
        finally:
            self._release(file)

    def forget(self, path: str) -> None:
        """Close it as soon as nobody reads it, so that a deleted file gives its space back."""
        self._check_fork()
        with self._lock:
            file = self._files.pop(path, None)
            if file is not None:
                self._drop(file)

    def close(self) -> None:
        """Close all; those that are being read are closed when their readers are done."""
        self._check_fork()
        with self._lock:
            while self._files:
                self._drop(self._files.popitem()[1])

    def _acquire(self, path: str) -> _File:
        self._check_fork()
        with self._lock:
            file = self._files.get(path)
            if file is not None:
                file.readers += 1
                self._files.move_to_end(path)
                return file
        opened = _File(
            os.open(path, os.O_RDONLY | disk.OPEN_FLAGS)
        )  # may wait for the disk: unlocked
        with self._lock:
            file = self._files.setdefault(path, opened)
            file.readers += 1
            self._files.move_to_end(path)
            if file is not opened:
                os.close(opened.fd)  # another thread was faster
            while len(self._files) > self._limit:
                self._drop(self._files.popitem(last=False)[1])
        return file

    def _release(self, file: _File) -> None:
        with self._lock:
            file.readers -= 1
            if file.is_dropped and not file.readers:
                os.close(file.fd)

    def _drop(self, file: _File) -> None:
        file.is_dropped = True
        if not file.readers:
            os.close(file.fd)

    def _check_fork(self) -> None:
        if self._pid == os.getpid():
            return
        inherited = self._files
        self._start_afresh()
        while inherited:  # ours to close: descriptors are per process
            os.close(inherited.popitem()[1].fd)
