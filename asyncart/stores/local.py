"""A directory as an object store: one read-only file per object, `ROOT/objects/xx/ID`.

Promised: an object is visible under its name only when it is whole and durable (temp name in the final
directory, write, sync, rename, sync of the directory); what a killed process leaves behind is a file
whose name begins with a dot, which the next attempt continues or `sweep` removes. A full disk is found
before the first byte where the size is known, and changes nothing that is stored.

Refused: mmap, symbolic links and hidden names as keys, and any resource held between two calls of an
upload: an upload that is dropped without a word leaks neither a file descriptor nor a lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio.lowlevel import RunVar

from asyncart.errors import Corrupt, Invalid, NotFound
from asyncart.threads import check_cancelled, run_blocking

from . import disk, links
from .openfiles import OpenFiles
from .protocol import Listed, Page

THREADS = (
    16  # a cold disk wants several requests at once; beyond 16 nothing was gained (2 cores, NVMe)
)
OPEN_FILES = 64  # objects kept open for the next range: packs are read in several pieces
CLEANUP_S = 5.0  # removing one temp file
SWEEP_AFTER_S = 24 * 3600.0

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("asyncart.stores.local")


def disk_limiter() -> anyio.CapacityLimiter:
    """How many threads the local stores of this event loop may keep busy, all together."""
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        _limiter.set(limiter)
        return limiter


class TempName(NamedTuple):
    """`.NAME.HOST-PID-RANDOM.tmp`: hidden, and says who writes it. HOST is the boot id of the machine.

    The boot id answers two questions: whether PID may be asked for on this machine, and whether bytes
    that were written but never synced can have got lost since.
    """

    name: str
    host: str
    pid: int
    suffix: str

    def __str__(self) -> str:
        return f".{self.name}.{self.host}-{self.pid}-{self.suffix}.tmp"

    @classmethod
    def new(cls, name: str) -> TempName:
        return cls(name, boot_id(), os.getpid(), os.urandom(4).hex())

    @classmethod
    def parse(cls, text: str) -> TempName | None:
        """None for any other file, which is not ours to touch."""
        name, dot, writer = text.removesuffix(".tmp").rpartition(".")
        fields = writer.split("-")
        if not (text.endswith(".tmp") and name.startswith(".") and dot and len(fields) == 3):
            return None
        host, pid, suffix = fields
        return cls(name[1:], host, int(pid), suffix) if pid.isdecimal() else None

    @property
    def is_of_this_boot(self) -> bool:
        return bool(self.host) and self.host == boot_id()

    @property
    def is_writer_alive(self) -> bool:
        return self.is_of_this_boot and _is_alive(self.pid)


class LocalStore:
    """Objects below the directory `root`, which is created with the first object."""

    part_bytes = 1
    is_local = True

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(os.path.expanduser(root))
        self.url = Path(self.root).as_uri()
        self._files = OpenFiles(OPEN_FILES)
        self._known_directories: set[str] = set()

    def local_path(self, key: str) -> str | None:
        return self._path(key)

    async def sizes(self, keys: Sequence[str]) -> dict[str, int]:
        return await run_blocking(self._sizes, keys, limiter=disk_limiter())

    async def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        await run_blocking(self._read_into, key, offset, buffer, limiter=disk_limiter())

    async def write(self, key: str, buffers: Sequence[memoryview]) -> None:
        await run_blocking(self._write, key, buffers, limiter=disk_limiter())

    async def adopt(self, key: str, local_path: str) -> bool:
        """Reflink the file, or else hardlink it; its own mode and owner stay as they are.

        A hardlinked object is as writable as the user's file: whoever breaks the promise that it will
        not change is found out when the object is read, because everything read is verified.
        """
        return await run_blocking(self._adopt, key, local_path, limiter=disk_limiter())

    async def begin_upload(self, key: str, size_hint: int | None = None) -> LocalUpload:
        upload = LocalUpload(self, key, TempName.new(_basename(key)), size_hint or 0)
        try:
            await run_blocking(upload.create, limiter=disk_limiter())
        except BaseException:
            await upload.abort()  # created, and cancelled before anybody heard of it
            raise
        return upload

    async def resume_upload(self, key: str, token: str) -> LocalUpload | None:
        temp = TempName.parse(token)
        if temp is None or temp.name != _basename(key):
            return None
        upload = LocalUpload(self, key, temp, 0, is_resumed=True)
        return upload if await run_blocking(upload.adopt, limiter=disk_limiter()) else None

    async def delete(self, keys: Sequence[str]) -> None:
        await run_blocking(self._delete, keys, limiter=disk_limiter())

    async def list_page(self, prefix: str = "", after: str = "", limit: int = 1000) -> Page:
        return await run_blocking(self._list_page, prefix, after, limit, limiter=disk_limiter())

    async def presign(self, key: str, *, method: str = "GET", ttl_s: float = 900) -> str | None:
        return None

    async def sweep(self, older_than_s: float = SWEEP_AFTER_S) -> int:
        """Remove what killed writers left behind and nobody continued; returns how many files.

        A temp file stays while its writer lives on this machine, or while it is younger than
        `older_than_s` (writers elsewhere, on a shared file system).
        """
        return await run_blocking(self._sweep, older_than_s, limiter=disk_limiter())

    async def aclose(self) -> None:
        self._files.close()

    # What follows runs in worker threads.

    def _sizes(self, keys: Sequence[str]) -> dict[str, int]:
        found = {}
        for key in keys:
            path = self._path(key)
            with disk.translated(key, path), contextlib.suppress(FileNotFoundError):
                found[key] = os.stat(path).st_size
        return found

    def _read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        path = self._path(key)
        with disk.translated(key, path), self._files.open(path) as fd:
            got = disk.read_at(fd, offset, buffer)
        if got < buffer.nbytes:
            raise Corrupt(
                f"{key}: ends {buffer.nbytes - got} bytes too early: "
                f"{buffer.nbytes} wanted from {offset} on, {got} there ({path})"
            )

    def _write(self, key: str, buffers: Sequence[memoryview]) -> None:
        size = sum(buffer.nbytes for buffer in buffers)
        path = self._path(key)
        temp = os.path.join(os.path.dirname(path), str(TempName.new(_basename(key))))
        with disk.translated(key, path, needs=size):
            try:
                fd = self._create(temp)
                try:
                    disk.preallocate(fd, size)
                    disk.write_at(fd, 0, buffers)
                    _seal(fd)
                finally:
                    os.close(fd)
                self._publish(temp, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    _unlink(temp)
                raise

    def _adopt(self, key: str, local_path: str) -> bool:
        path = self._path(key)
        directory = os.path.dirname(path)
        temp = os.path.join(directory, str(TempName.new(_basename(key))))
        with disk.translated(key, local_path):
            source = os.path.realpath(local_path, strict=True)  # link() would link the link itself
            self._known_directories.discard(directory)  # somebody may have removed it
            self._make_directory(directory)
            try:
                is_ours = links.reflink(source, temp)
                if not is_ours and not links.hardlink(source, temp):
                    return False
                fd = os.open(temp, os.O_RDONLY | disk.OPEN_FLAGS)
                try:
                    if is_ours:
                        _seal(fd)
                    else:
                        disk.sync_data(fd)  # its mode is the user's
                finally:
                    os.close(fd)
                self._publish(temp, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    _unlink(temp)
                raise
        return True

    def _delete(self, keys: Sequence[str]) -> None:
        directories = set()
        for key in keys:
            path = self._path(key)
            self._files.forget(path)
            with disk.translated(key, path):
                if _unlink(path):
                    directories.add(os.path.dirname(path))
        for directory in directories:
            with disk.translated(self.url, directory):
                disk.sync_directory(directory)

    def _list_page(self, prefix: str, after: str, limit: int) -> Page:
        with disk.translated(self.url, self.root):
            found = list(islice(self._objects("", prefix, after), limit + 1))
        has_more = len(found) > limit
        objects = found[:limit]
        return Page(objects, objects[-1].key if has_more and objects else None)

    def _objects(self, directory: str, prefix: str, after: str) -> Iterator[Listed]:
        """The objects below a directory ("" or "a/b/") in key order; subtrees out of range are not read."""
        for name, entry in self._entries(directory):
            check_cancelled()
            key = directory + name
            if entry.is_dir(follow_symlinks=False):
                is_wanted = key.startswith(prefix) or prefix.startswith(key)
                if is_wanted and (after < key or after.startswith(key)):
                    yield from self._objects(key, prefix, after)
            elif key > after and key.startswith(prefix) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    facts = entry.stat(follow_symlinks=False)
                    yield Listed(key, facts.st_size, facts.st_mtime)

    def _entries(self, directory: str) -> list[tuple[str, os.DirEntry[str]]]:
        """What a directory holds, in the order of keys: a directory sorts as `NAME/`."""
        path = os.path.join(self.root, *directory.split("/"))
        try:
            with os.scandir(path) as entries:
                named = [
                    (entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name, entry)
                    for entry in entries
                    if not entry.name.startswith(".")
                ]
        except FileNotFoundError:
            return []
        return sorted(named, key=lambda pair: pair[0])

    def _sweep(self, older_than_s: float) -> int:
        removed = 0
        limit = time.time() - older_than_s
        with disk.translated(self.url, self.root):
            for directory, _, names in os.walk(self.root):
                check_cancelled()
                for name in names:
                    temp = TempName.parse(name)
                    if temp is None or temp.is_writer_alive:
                        continue
                    path = os.path.join(directory, name)
                    with contextlib.suppress(FileNotFoundError):
                        if os.stat(path).st_mtime <= limit:
                            removed += _unlink(path)
        return removed

    def _path(self, key: str) -> str:
        parts = key.split("/")
        if any(not part or part.startswith(".") for part in parts) or not _FORBIDDEN.isdisjoint(
            key
        ):
            raise Invalid(f"{key!r} is no key of an object: use names joined by single slashes")
        return os.path.join(self.root, *parts)

    def _create(self, temp: str) -> int:
        """Open a new temp file for writing, making its directory first if need be."""
        directory = os.path.dirname(temp)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | disk.OPEN_FLAGS
        self._make_directory(directory)
        try:
            return os.open(temp, flags, 0o644)
        except FileNotFoundError:  # somebody removed the directory since we made it
            self._known_directories.discard(directory)
            self._make_directory(directory)
            return os.open(temp, flags, 0o644)

    def _make_directory(self, directory: str) -> None:
        """Create the directory and its ancestors, durably."""
        if directory in self._known_directories:
            return
        if not os.path.isdir(directory):
            parent = os.path.dirname(directory)
            self._make_directory(parent)
            with disk.translated_folder(directory):
                try:
                    os.mkdir(directory)
                except FileExistsError:
                    if not os.path.isdir(directory):
                        raise
                disk.sync_directory(parent)
        self._known_directories.add(directory)

    def _publish(self, temp: str, path: str) -> None:
        """Give the finished file its name, durably."""
        os.replace(temp, path)
        disk.sync_directory(os.path.dirname(path))


class LocalUpload:
    """A temp file that fills up. Every call opens it anew, so nothing is held in between."""

    def __init__(
        self,
        store: LocalStore,
        key: str,
        temp: TempName,
        size_hint: int,
        *,
        is_resumed: bool = False,
    ) -> None:
        self.key = key
        self.token = str(temp)
        self._store = store
        self._path = store._path(key)
        self._temp_name = temp
        self._temp = os.path.join(os.path.dirname(self._path), self.token)
        self._size_hint = size_hint
        self._is_resumed = is_resumed
        self._parts: dict[int, tuple[int, int]] = {}  # index: (offset, length)

    async def part(self, index: int, offset: int, buffers: Sequence[memoryview]) -> None:
        length = await run_blocking(self._part, offset, buffers, limiter=disk_limiter())
        self._parts[index] = offset, length

    async def complete(self, size: int) -> None:
        await run_blocking(self._complete, size, limiter=disk_limiter())

    async def abort(self) -> None:
        with anyio.move_on_after(CLEANUP_S, shield=True):
            await run_blocking(_unlink, self._temp)

    # What follows runs in worker threads.

    def create(self) -> None:
        with disk.translated(self.key, self._path, needs=self._size_hint):
            fd = self._store._create(self._temp)
            try:
                disk.preallocate(fd, self._size_hint)
            finally:
                os.close(fd)

    def adopt(self) -> bool:
        """Take over what another process began; False if it is gone or cannot be trusted.

        Parts were acknowledged when they were written, not when they were synced: after a restart of
        the machine some may be holes, so such a file is dropped.
        """
        with disk.translated(self.key, self._temp):
            if not self._temp_name.is_of_this_boot:
                _unlink(self._temp)
                return False
            try:
                os.utime(
                    self._temp
                )  # young again: its writer's death no longer means that it is garbage
            except FileNotFoundError:
                return False
        return True

    def _part(self, offset: int, buffers: Sequence[memoryview]) -> int:
        needs = max(self._size_hint, sum(buffer.nbytes for buffer in buffers))
        with self._opened(needs) as fd:
            return disk.write_at(fd, offset, buffers)

    def _complete(self, size: int) -> None:
        try:
            with self._opened(size) as fd:
                self._check_whole(size, os.fstat(fd).st_size)
                os.ftruncate(fd, size)  # gives back what was reserved beyond
                _seal(fd)
            with disk.translated(self.key, self._path):
                self._store._publish(self._temp, self._path)
        except NotFound:
            # Completed before, perhaps by a call whose answer got lost.
            if self._store._sizes([self.key]).get(self.key) != size:
                raise

    def _check_whole(self, size: int, end: int) -> None:
        """Parts of an earlier process are unknown here: then only the ends of the file and of ours speak."""
        if self._is_resumed:
            ours = max((offset + length for offset, length in self._parts.values()), default=0)
            held = min(end, max(ours, size))
        else:
            held = 0
            for offset, length in sorted(self._parts.values()):
                if offset != held:
                    break
                held += length
        if held != size:
            raise Invalid(f"{self.key}: the parts hold {held} bytes without a gap, not {size}")

    @contextlib.contextmanager
    def _opened(self, needs: int) -> Iterator[int]:
        with disk.translated(self.key, self._temp, needs):
            fd = os.open(self._temp, os.O_WRONLY | disk.OPEN_FLAGS)
            try:
                yield fd
            finally:
                os.close(fd)


_FORBIDDEN = frozenset("\\:\0")


def _basename(key: str) -> str:
    return key.rpartition("/")[2]


def _seal(fd: int) -> None:
    """Everything is on the disk, and nobody writes it any more."""
    if hasattr(os, "fchmod") and os.name != "nt":  # Windows cannot rename or delete read-only files
        os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) & 0o444)
    disk.sync_data(fd)


def _unlink(path: str) -> bool:
    """Whether there was something to remove."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def boot_id() -> str:
    """Changes with every start of the machine; "" where the system does not tell."""
    global _boot_id
    if _boot_id is None:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                _boot_id = file.read().strip().replace("-", "")
        except OSError:
            _boot_id = ""
    return _boot_id


_boot_id: str | None = None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError as error:
        return error.errno == errno.EPERM
    return True
