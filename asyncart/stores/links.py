"""Give a file's bytes a second name without moving them through memory.

From the cheapest to the dearest: `reflink` shares the blocks until one side changes, `hardlink` is the
same file under two names (so both must stay as they are), `copy_range` lets the kernel copy. Each says
False, or falls back, where the file system cannot; none of them overwrites.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable

from . import disk

STEP_BYTES = 8 << 20
_FICLONE = 0x40049409  # from linux/fs.h: _IOW(0x94, 9, int)

# "Not here, not between these two": the answers that mean another way must be taken.
_CANNOT = {
    errno.EXDEV,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EINVAL,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ETXTBSY,
    errno.EBADF,
}


def reflink(source: str, target: str) -> bool:
    """Make `target` a copy-on-write clone of `source`; False (and no target) where that cannot be."""
    if sys.platform == "darwin":
        return _clone_file(source, target)
    if sys.platform != "linux":
        return False
    with open(source, "rb") as original:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | disk.OPEN_FLAGS, 0o666)
        try:
            is_done = clone_fd(original.fileno(), fd)
        except BaseException:
            _remove(target)
            raise
        finally:
            os.close(fd)
    if not is_done:
        _remove(target)
    return is_done


def clone_fd(source_fd: int, target_fd: int) -> bool:
    """Linux: make an open, empty file a clone of another; False where that cannot be."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def hardlink(source: str, target: str) -> bool:
    """Give the file a second name; False where the file system cannot."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def copy_range(
    source_fd: int, target_fd: int, length: int, *, source_offset: int = 0, target_offset: int = 0
) -> int:
    """Copy bytes between two open files, in the kernel if it can; fewer mean the source's end."""
    done = 0
    while done < length:
        step = min(length - done, 1 << 30)
        count = _copy_in_kernel(
            source_fd, target_fd, step, source_offset + done, target_offset + done
        )
        if count is None:
            return done + _copy_through_memory(
                source_fd, target_fd, length - done, source_offset + done, target_offset + done
            )
        if not count:
            break
        done += count
    return done


def _copy_in_kernel(
    source_fd: int, target_fd: int, length: int, source_offset: int, target_offset: int
) -> int | None:
    """None: this kernel does not copy between these files."""
    if sys.platform != "linux":
        return None
    try:
        count = os.copy_file_range(source_fd, target_fd, length, source_offset, target_offset)
    except OSError as error:
        if error.errno in _CANNOT:
            return None
        raise
    # Files of /proc and some FUSE file systems answer 0 though there is something to read.
    return count or None


def _copy_through_memory(
    source_fd: int, target_fd: int, length: int, source_offset: int, target_offset: int
) -> int:
    buffer = memoryview(bytearray(min(length, STEP_BYTES)))
    done = 0
    while done < length:
        view = buffer[: length - done]
        got = disk.read_at(source_fd, source_offset + done, view)
        disk.write_at(target_fd, target_offset + done, [view[:got]])
        done += got
        if got < len(view):
            break
    return done


def _clone_file(source: str, target: str) -> bool:
    clonefile = _libc_clonefile()
    if clonefile is None:
        return False
    if not clonefile(os.fsencode(source), os.fsencode(target), 0):
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), target)


@functools.cache
def _libc_clonefile() -> Callable[[bytes, bytes, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).clonefile
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint32]
    return function


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
