"""Which files of a tree were opened or read while something ran, by inotify.

The kernel tells, so it does not matter which process read them, or how. Folders are listed by every
scan and do not count.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

IN_ACCESS, IN_OPEN, IN_Q_OVERFLOW, IN_ISDIR = 0x1, 0x20, 0x4000, 0x40000000
HEADER = struct.Struct("iIII")


class FileWatch:
    """Counts the files of a tree that are opened between enter and exit.

    `opened` is None where the kernel cannot tell: not Linux, or more events than its queue holds.
    """

    def __init__(self, root: Path) -> None:
        self.opened: int | None = None
        self._root = root
        self._fd = -1

    def __enter__(self) -> FileWatch:
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            for folder, _, _ in os.walk(self._root):
                libc.inotify_add_watch(self._fd, os.fsencode(folder), IN_OPEN | IN_ACCESS)
            with suppress(BlockingIOError):
                while os.read(self._fd, 1 << 16):  # the walk above opened the folders
                    pass
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd < 0:
            return
        try:
            self.opened = self._count()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _count(self) -> int | None:
        seen: set[tuple[int, bytes]] = set()
        with suppress(BlockingIOError):
            while events := os.read(self._fd, 1 << 16):
                at = 0
                while at < len(events):
                    folder, mask, _, length = HEADER.unpack_from(events, at)
                    name = events[at + HEADER.size : at + HEADER.size + length].rstrip(b"\0")
                    at += HEADER.size + length
                    if mask & IN_Q_OVERFLOW:
                        return None
                    if not mask & IN_ISDIR:
                        seen.add((folder, name))
        return len(seen)
