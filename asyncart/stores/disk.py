"""The few system calls that a store on disk is made of, with the same meaning on every platform.

Promised: whole writes and whole reads or an error; a full disk is told apart from a broken one, and
says how much is missing where. Refused: mmap (a file that shrinks would kill the process with SIGBUS)
and any emulation that would silently write the file twice (glibc's posix_fallocate does, where the
file system cannot allocate, for example on NFS).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from asyncart import threads
from asyncart.errors import AsyncartError, Denied, Full, NotFound, Unavailable

# The step between two looks at a cancellation, and the unit of early write-back. On ext4, 12 files of
# 64 MiB in 8 threads: 0.24 s with early write-back, 0.28 s without, 0.30-0.35 s with an fdatasync or
# RWF_DSYNC per step (medians of 3).
STEP_BYTES = 8 << 20
BUFFERS_PER_CALL = 1024  # IOV_MAX on Linux, macOS and the BSDs
OPEN_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_DIRECTORY_SYNC = {
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EBADF,
}  # some network and FUSE file systems
_FALLOC_FL_KEEP_SIZE = 1
_SYNC_FILE_RANGE_WRITE = 2
_seeking = threading.Lock()  # where there is no pread: seek and read are two calls


def write_at(fd: int, offset: int, buffers: Sequence[memoryview]) -> int:
    """Write all of the buffers, one after the other, from `offset` on; returns their length."""
    start = offset
    for batch in _batches(buffers):
        threads.check_cancelled()
        step = offset
        while batch:
            written = _pwritev(fd, batch, offset)
            offset += written
            batch = _after(batch, written)
        start_writeback(fd, step, offset - step)
    return offset - start


def read_at(fd: int, offset: int, buffer: memoryview) -> int:
    """Fill the buffer from `offset` on; fewer bytes than its length mean the end of the file."""
    view = buffer.cast("B")
    filled = 0
    while filled < len(view):
        threads.check_cancelled()
        got = _preadv(fd, view[filled : filled + STEP_BYTES], offset + filled)
        if not got:
            break
        filled += got
    return filled


def preallocate(fd: int, length: int) -> None:
    """Reserve the space, so that a full disk is an error before the work; the size stays as it is.

    Nothing happens where the file system cannot reserve: then the write itself finds out.
    """
    allocate = _libc("fallocate")
    if allocate is None or length <= 0:
        return
    while allocate(fd, _FALLOC_FL_KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(length)):
        code = ctypes.get_errno()
        if code in _FULL:
            raise OSError(code, os.strerror(code))
        if code != errno.EINTR:
            return


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Have the kernel begin to write these bytes now: a hint, which shortens the sync at the end."""
    sync_range = _libc("sync_file_range")
    if sync_range is not None and length:
        sync_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


def sync_data(fd: int) -> None:
    """The file's bytes and size are on the disk when this returns."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def sync_directory(path: str) -> None:
    """The names in the directory are on the disk when this returns (Windows has no such call)."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(fd)


@contextmanager
def translated(what: str, path: str, needs: int = 0) -> Iterator[None]:
    """Turn the system's errors into asyncart's; `what` leads the message, `needs` is in bytes."""
    try:
        yield
    except AsyncartError:
        raise
    except OSError as error:
        raise translate(error, what, path, needs) from error


def translate(error: OSError, what: str, path: str, needs: int = 0) -> AsyncartError:
    """The asyncart error that says the same as `error`."""
    if is_full(error):
        return disk_full(what, path, needs)
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{what}: no such object ({path})")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return Denied(f"{what}: {error.strerror} ({path}); check who owns the folder and its mode")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return Unavailable(f"{what}: too many open files ({path}); raise `ulimit -n` and try again")
    return Unavailable(f"{what}: {error.strerror or error} ({path})")


@contextmanager
def translated_folder(path: str) -> Iterator[None]:
    """`translated` around the making of a folder for objects: it is the folder that is wrong then, no object."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise disk_full(f"{path} cannot be made", path, 0) from error
        if isinstance(error, FileExistsError):
            what = "is not a folder, and objects belong there: move it away"
        else:
            what = f"cannot be made, and objects belong there: {error.strerror}: make it"
        is_denied = isinstance(error, PermissionError) or error.errno == errno.EROFS
        raise (Denied if is_denied else Unavailable)(
            f"{path} {what}, or set `objects` to another folder"
        ) from error


def is_full(error: OSError) -> bool:
    """Whether the disk, or a quota on it, has no room."""
    return error.errno in _FULL


def disk_full(what: str, path: str, needs: int) -> Full:
    """The disk, or the user's quota on it, has no room for `needs` bytes."""
    mount = mount_point(path)
    free = shutil.disk_usage(mount).free
    return Full(
        f"{what}: disk full: needs {size_text(needs)}, has {size_text(free)} free on {mount}; "
        "free space and log again: nothing is lost"
    )


def mount_point(path: str) -> str:
    """The mount point of the nearest ancestor that exists."""
    path = os.path.realpath(path)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def size_text(count: int) -> str:
    """Bytes for people: `512 B`, `64.0 MiB`."""
    if count < 1024:
        return f"{count} B"
    size = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def _batches(buffers: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """The same bytes in lists of at most one step and one system call's worth of buffers."""
    batch: list[memoryview] = []
    room = STEP_BYTES
    for buffer in buffers:
        view = buffer.cast("B")
        while len(view):
            piece = view[:room]
            batch.append(piece)
            room -= len(piece)
            view = view[len(piece) :]
            if not room or len(batch) == BUFFERS_PER_CALL:
                yield batch
                batch, room = [], STEP_BYTES
    if batch:
        yield batch


def _after(batch: list[memoryview], written: int) -> list[memoryview]:
    """What is left of the batch when its first `written` bytes are gone."""
    for number, view in enumerate(batch):
        if written < len(view):
            return [view[written:], *batch[number + 1 :]]
        written -= len(view)
    return []


def _pwritev(fd: int, batch: list[memoryview], offset: int) -> int:
    if hasattr(os, "pwritev"):
        return os.pwritev(fd, batch, offset)
    with _seeking:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, batch[0])


def _preadv(fd: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    with _seeking:
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, len(view))
    view[: len(data)] = data
    return len(data)


@functools.cache
def _libc(name: str) -> Any | None:
    """A function of the C library that Python does not offer; None where there is none (not Linux)."""
    if not hasattr(os, "posix_fallocate"):
        return None
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
