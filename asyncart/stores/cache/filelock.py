"""A lock between processes (and threads) on a file, held for microseconds and released by a death.

Waiting is bounded: a holder that was stopped in the middle must not stop anybody else.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from asyncart.threads import check_cancelled

from .. import disk

PATIENCE_S = 1.0  # an eviction holds it for the time of some hundred unlinks
STEP_S = 0.001

_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}

if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # of the file: Windows locks bytes, and keeps others from reading them

    def _take(fd: int) -> None:
        os.lseek(fd, _FAR, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    def _release(fd: int) -> None:
        os.lseek(fd, _FAR, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _take(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _release(fd: int) -> None:
        # Said, not left to close(): a child forked meanwhile has the same open file.
        fcntl.flock(fd, fcntl.LOCK_UN)


class Busy(Exception):
    """Somebody else has held the lock for longer than anybody should."""


@contextmanager
def locked(path: str, patience_s: float = PATIENCE_S) -> Iterator[int]:
    """The open file, which nobody else has locked. Raises Busy, or OSError where it cannot be opened."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | disk.OPEN_FLAGS, 0o600)
    try:
        _wait(fd, time.monotonic() + patience_s)
        try:
            yield fd
        finally:
            _release(fd)
    finally:
        os.close(fd)


def _wait(fd: int, deadline: float) -> None:
    while True:
        try:
            return _take(fd)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        if time.monotonic() > deadline:
            raise Busy
        check_cancelled()
        time.sleep(STEP_S)
