"""References to local files and directories (`file://`).

Promised: the digest is that of the content, and what is fetched later has exactly that content, or is a
Conflict that names the file. A directory is walked in order of names, symbolic links are followed; a broken
link, a loop, or something that is neither file nor directory is an error that names it. With
`checksum=False` nothing is opened: the URI is recorded.

Files are read by `preadv` into one buffer per worker thread, never mapped: a file that is truncated
meanwhile is an error, not a SIGBUS. A file whose stat changed while it was read is refused.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import quote

from blake3 import blake3

from asyncart.engine.target import Target
from asyncart.engine.tasks import Threads, task_group
from asyncart.errors import AsyncartError, Conflict, Denied, Invalid, NotFound, Unavailable
from asyncart.model import Entry, Reference
from asyncart.names import check_entry_path, is_safe_entry_path
from asyncart.threads import check_cancelled

from .uris import entry_path, local_path, recorded

BLOCK_BYTES = 4 << 20  # one buffer per thread; larger ones leave the L2 cache
BATCH_FILES = 256  # per hop to a worker thread
BATCH_BYTES = 64 << 20
# O_NONBLOCK: opening a FIFO must not wait for its other end. It changes nothing for regular files.
_OPEN = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


class _Found(NamedTuple):
    path: str
    local: str
    uri: str
    size: int


class Files:
    """`is_allowed`: whether `fetch` may open local files, see `references.fetch`."""

    def __init__(self, threads: Threads, *, is_allowed: bool = True) -> None:
        self._threads = threads
        self._is_allowed = is_allowed

    async def resolve(
        self, uri: str, *, name: str | None, checksum: bool, max_objects: int
    ) -> list[Entry]:
        if not checksum:
            return [recorded(uri, name)]
        found = await self._threads.run(_find, uri, name, max_objects)
        batches = _batches(found)
        entries: list[Entry] = []

        async def work() -> None:
            for batch in batches:  # shared: each batch goes to one of the workers
                entries.extend(await self._threads.run(_hash_all, batch))

        async with task_group() as group:
            for _ in range(min(self._threads.count, math.ceil(len(found) / BATCH_FILES), 8)):
                group.start_soon(work)
        return sorted(entries, key=_by_path)

    async def fetch(self, entry: Entry, target: Target) -> os.stat_result:
        assert entry.reference is not None
        if not self._is_allowed:
            raise Denied(
                f"{entry.path} refers to {entry.reference.uri}, a file of whoever logged the artifact, and the "
                "same path on this machine may hold something private: pass allow_file_references=True if you "
                "trust the artifact"
            )
        return await self._threads.run(_copy, entry, entry.reference, target)


def _by_path(entry: Entry) -> str:
    return entry.path


def _batches(found: Sequence[_Found]) -> Iterator[list[_Found]]:
    batch: list[_Found] = []
    size = 0
    for item in found:
        if batch and (len(batch) == BATCH_FILES or size + item.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield batch


def _find(uri: str, name: str | None, max_objects: int) -> list[_Found]:
    local = local_path(uri)
    top = entry_path(uri, name)
    info = _stat(local)
    if stat.S_ISREG(info.st_mode):
        return [_Found(top, local, uri, info.st_size)]
    if not stat.S_ISDIR(info.st_mode):
        raise Invalid(f"{local} is neither a file nor a directory: it cannot be referred to")
    found: list[_Found] = []
    for path, file, size in _walk(local.rstrip("/") or "/", "", ()):
        if len(found) == max_objects:
            raise Invalid(
                f"{uri} holds more than {max_objects:,} files: pass a larger max_objects, or refer to parts of it"
            )
        below = f"{uri.rstrip('/')}/{quote(os.fsencode(path))}"
        if not is_safe_entry_path(full := f"{top}/{path}"):
            check_entry_path(full)
        found.append(_Found(full, file, below, size))
    if not found:
        raise Invalid(f"{local} holds no files: there is nothing to refer to")
    return found


def _walk(
    top: str, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, str, int]]:
    """(path below the top, local path, size) of every file; links are followed, loops refused."""
    pending = [(top, prefix, above)]
    while pending:
        check_cancelled()
        folder, prefix, above = pending.pop()
        info = _stat(folder)
        here = (info.st_dev, info.st_ino)
        if here in above:
            raise Invalid(
                f"{folder} is a link to a directory that contains it: a loop has no end; remove the link"
            )
        inner = []
        for item in _listed(folder):
            info = _stat(item.path)
            if stat.S_ISDIR(info.st_mode):
                inner.append((item.path, f"{prefix}{item.name}/", (*above, here)))
            elif stat.S_ISREG(info.st_mode):
                yield prefix + item.name, item.path, info.st_size
            else:
                raise Invalid(
                    f"{item.path} is neither a file nor a directory: move it away, or refer to the files one "
                    "by one"
                )
        pending += reversed(inner)


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return sorted(items, key=lambda item: item.name)
    except OSError as error:
        raise _failure(folder, error) from error


def _hash_all(batch: Sequence[_Found]) -> list[Entry]:
    largest = max(item.size for item in batch)
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max(largest, 1))))
    entries = []
    for item in batch:
        check_cancelled()
        with _Source(item.local) as source:
            hasher = blake3()
            for _, block in source.blocks(buffer):
                hasher.update(block)
            size, is_executable = source.size, source.is_executable
        reference = Reference(item.uri, digest_is_content=True)
        entries.append(
            Entry(item.path, hasher.digest(), size, executable=is_executable, reference=reference)
        )
    return entries


def _copy(entry: Entry, reference: Reference, target: Target) -> os.stat_result:
    local = local_path(reference.uri)
    if reference.digest_is_content and (info := _is_there(entry, target)):
        return info
    with _Source(local) as source:
        if reference.digest_is_content and source.size != entry.size:
            raise _changed(entry, local)
        partial = target.begin(entry.path, source.size, reference.uri)
        try:
            hasher = blake3()
            for offset, block in source.blocks(memoryview(bytearray(BLOCK_BYTES))):
                hasher.update(block)
                partial.write(offset, block)
            if reference.digest_is_content and hasher.digest() != entry.digest:
                raise _changed(entry, local)
            return partial.publish(entry.executable or source.is_executable)
        finally:
            partial.discard()  # nothing, once it is published


def _is_there(entry: Entry, target: Target) -> os.stat_result | None:
    """The stat of the file that an earlier download wrote, if it still has the right content."""
    info = target.stat(entry.path)
    if info is None or not stat.S_ISREG(info.st_mode) or info.st_size != entry.size:
        return None
    if entry.executable and not info.st_mode & stat.S_IXUSR:
        return None
    try:
        with _Source(os.path.join(target.root, entry.path)) as source:
            hasher = blake3()
            for _, block in source.blocks(memoryview(bytearray(BLOCK_BYTES))):
                hasher.update(block)
    except AsyncartError:
        return None
    return info if hasher.digest() == entry.digest else None


class _Source:
    """A regular file that is read from its begin to its end while nobody changes it."""

    def __init__(self, local: str) -> None:
        self._local = local
        try:
            self._fd = os.open(local, _OPEN)
        except OSError as error:
            raise _failure(local, error) from error
        self._info = os.fstat(self._fd)
        if not stat.S_ISREG(self._info.st_mode):
            os.close(self._fd)
            raise Invalid(f"{local} is not a file: only files can be referred to and downloaded")
        self.size = self._info.st_size
        self.is_executable = bool(self._info.st_mode & stat.S_IXUSR)

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def blocks(self, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
        """(offset, bytes), in order. The bytes are only valid until the next one is asked for."""
        offset = 0
        while offset < self.size:
            check_cancelled()
            want = min(len(buffer), self.size - offset)
            try:
                got = _read_at(self._fd, buffer[:want], offset)
            except OSError as error:
                raise _failure(self._local, error) from error
            if not got:
                break
            yield offset, buffer[:got]
            offset += got
        after = os.fstat(self._fd)
        if offset != self.size or _stamp(after) != _stamp(self._info):
            raise Conflict(
                f"{self._local} changed while it was read: repeat it when nobody writes to it"
            )


def _read_at(fd: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, (buffer,), offset)
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _stamp(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _changed(entry: Entry, local: str) -> Conflict:
    return Conflict(
        f"{entry.path} refers to {local}, whose content changed since it was logged: restore the file, or log "
        "the reference again"
    )


def _stat(local: str) -> os.stat_result:
    try:
        return os.stat(local)
    except OSError as error:
        raise _failure(local, error) from error


def _failure(local: str, error: OSError) -> AsyncartError:
    reason = error.strerror or str(error)
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            if os.path.islink(local):
                return NotFound(
                    f"{local} is a broken link (to {os.readlink(local)}): remove it, or restore what it names"
                )
            return NotFound(f"{local}: {reason}: check the path of the reference")
        case errno.ELOOP:
            return Invalid(f"{local} is a loop of links: remove it")
        case errno.EACCES | errno.EPERM:
            return Denied(f"{local}: {reason}: allow reading it")
        case errno.ENXIO:
            return Invalid(f"{local} is not a file: only files can be referred to and downloaded")
    return Unavailable(f"{local}: {reason}: check the disk and repeat it")
