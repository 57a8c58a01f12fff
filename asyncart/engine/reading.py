"""Read and hash local files: the blocking work of `upload`, for worker threads.

Every byte is read once, into the buffer that is hashed and sent. A file is compared with its stat
before and after: one that changed while it was read is read once more and then refused by name, never
stored torn. No mmap: a file truncated by another process would be a SIGBUS that kills the user's service.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from typing import NamedTuple

from blake3 import blake3

from ..errors import Conflict, Denied, Invalid, NotFound, Unavailable
from .chunking import cut, hash_chunks
from .listing import Listing
from .plan import is_large
from .statcache import Stamp

if sys.platform == "linux":
    import resource

# O_NONBLOCK: a FIFO that took a file's place after the scan must not make us wait for its other end.
OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
O_PATH = getattr(os, "O_PATH", 0)  # a folder that may be searched, if not listed; Linux only


class Moved(NamedTuple):
    """A file that changed since the scan: its bytes now, apart from the batch's buffer."""

    row: int
    data: bytes


class Batch(NamedTuple):
    """Small files that were read into one buffer: the digests, and those whose bytes are elsewhere.

    `is_cold`: not everything was in memory, the disk had to be waited for.
    """

    digests: list[bytes]
    moved: list[Moved]
    is_cold: bool


def read_batch(listing: Listing, rows: Sequence[int], buffer: memoryview) -> Batch:
    """Read small files one after the other into the buffer; set their digests.

    The file of rows[i] lies at the sum of the sizes (as scanned) before it; those that moved do not.
    """
    digests: list[bytes] = []
    moved: list[Moved] = []
    blocks = _blocks_read()
    offset = 0
    sizes, inodes, mtimes, ctimes = listing.sizes, listing.inodes, listing.mtimes, listing.ctimes
    with _Opener(listing) as opener:
        for row in rows:
            size = sizes[row]
            target = buffer[offset : offset + size]
            offset += size
            try:
                fd = opener.open(row)
                try:
                    # What the kernel makes up (/proc) calls itself empty, and is not.
                    got = os.readv(fd, (target,)) if size else len(os.read(fd, 1))
                    st = os.fstat(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                local = listing.local_path(row)
                raise translated(error, local) from error
            if (
                got == size == st.st_size
                and st.st_mtime_ns == mtimes[row]
                and st.st_ctime_ns == ctimes[row]
                and st.st_ino == inodes[row] & 0xFFFFFFFFFFFFFFFF
            ):
                digests.append(blake3(target).digest())
            else:
                again = _read_again(listing, row, listing.local_path(row))
                digests.append(blake3(again.data).digest())
                moved.append(again)
    listing.set_digests(rows, digests)
    return Batch(digests, moved, _blocks_read() > blocks)


def _blocks_read() -> int:
    """How many blocks this thread had to wait for so far; always 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock


class _Opener:
    """Opens the files of a listing, relative to the folder that the file before was in.

    Neighbours share their folder: opening by name alone takes 2.3 us where a path of five components
    takes 2.7, and the path need not be put together.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._folder = -1
        self._fd = -1

    def __enter__(self) -> _Opener:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def open(self, row: int) -> int:
        listing = self._listing
        if not O_PATH:
            return os.open(listing.local_path(row), OPEN_FLAGS)
        folder = listing.folder_of[row]
        if folder != self._folder:
            fd = os.open(listing.folders[folder], O_PATH | OPEN_FLAGS)
            if self._fd >= 0:
                os.close(self._fd)
            self._folder, self._fd = folder, fd
        return os.open(listing.local_name(row), OPEN_FLAGS, dir_fd=self._fd)


def _read_again(listing: Listing, row: int, local: str) -> Moved:
    try:
        with open(local, "rb", opener=lambda path, _: os.open(path, OPEN_FLAGS)) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode) or is_large(before.st_size):
                raise changed(local)
            data = file.read(before.st_size + 1)  # not to the end of what is growing
            after = os.fstat(file.fileno())
    except OSError as error:
        raise translated(error, local) from error
    if data and not after.st_size:
        raise Invalid(
            f"{local} holds bytes, although its size is 0, as files of the system do (/proc): add a copy of it"
        )
    if Stamp.of(before) != Stamp.of(after) or len(data) != after.st_size:
        raise changed(local)
    listing.restamp(row, Stamp.of(after))
    return Moved(row, data)


class Block(NamedTuple):
    """Whole chunks of a large file, in the buffer's beginning."""

    length: int
    lengths: list[int]
    digests: list[bytes]
    is_last: bool


class LargeFile:
    """A large file that is read block by block; `close` it, and `finish` it before its content counts."""

    def __init__(self, local: str) -> None:
        self.local = local
        self._fd = -1
        try:
            self._fd = os.open(local, OPEN_FLAGS)
        except OSError as error:
            raise translated(error, local) from error
        st = os.fstat(self._fd)
        if not stat.S_ISREG(st.st_mode):
            raise changed(local)
        self.stamp = Stamp.of(st)
        self.is_executable = bool(st.st_mode & stat.S_IXUSR)
        self._offset = 0
        self._hasher = blake3()

    def read_block(self, buffer: memoryview) -> Block:
        """Fill the buffer from where the last whole chunk ended; cut and hash the chunks."""
        filled = 0
        want = min(len(buffer), self.stamp.size - self._offset)
        try:
            while filled < want:
                got = _read_at(self._fd, buffer[filled:want], self._offset + filled)
                if not got:
                    raise changed(self.local)
                filled += got
        except OSError as error:
            raise translated(error, self.local) from error
        is_last = self._offset + filled == self.stamp.size
        lengths = cut(buffer[:filled], is_last)
        length = sum(lengths)
        self._offset += length
        return Block(length, lengths, hash_chunks(buffer, lengths), is_last)

    def hash_block(self, buffer: memoryview) -> None:
        """The whole file's digest so far; blocks must come in order."""
        self._hasher.update(buffer)

    def finish(self) -> bytes:
        """The file's digest. Raises Conflict if the file changed since it was opened."""
        if Stamp.of(os.fstat(self._fd)) != self.stamp:
            raise changed(self.local)
        return self._hasher.digest()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()  # opened in a thread whose caller was cancelled meanwhile


class LinkedFile(LargeFile):
    """An object that shares its bytes with the user's file `local`, to be read in its place.

    Its ctime says nothing: every other name that the file gets or loses changes that.
    """

    def __init__(self, path: str, local: str) -> None:
        super().__init__(path)
        self.local = local

    def finish(self) -> bytes:
        now = Stamp.of(os.fstat(self._fd))
        if not now.has_same_content_as(self.stamp):
            raise changed(self.local)
        return self._hasher.digest()


def stat_file(local: str) -> os.stat_result:
    """The stat of what `local` leads to, with our errors."""
    try:
        return os.stat(local)
    except OSError as error:
        raise translated(error, local) from error


def _read_at(fd: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, (buffer,), offset)
    os.lseek(fd, offset, os.SEEK_SET)
    with open(fd, "rb", buffering=0, closefd=False) as file:
        return file.readinto(buffer) or 0


class Changed(Conflict):
    """A file changed while it was read."""


def changed(local: str) -> Changed:
    return Changed(f"{local} changed while it was read; log again when nothing writes to it")


def translated(error: OSError, local: str) -> Exception:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{local} disappeared after it was found; log again")
    if isinstance(error, PermissionError):
        return Denied(f"{local} cannot be read: permission denied; change its mode or its owner")
    return Unavailable(f"{local} cannot be read: {error.strerror or error}")
