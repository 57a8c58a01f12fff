"""Objects of remote stores, kept in a folder of limited size.

Promised: the folder stays below its limit, because room is made before something is written (what the
last writers are at may come on top: one range each); the objects that were not used for the longest time
go first. Any number of processes may share it, be killed at any point, and remove from it while others
read: an open file stays readable. It never fails a transfer: a full or broken disk turns it off for a
while, and it stops growing where the disk itself gets short. Bytes are trusted by nobody: whoever reads
them verifies them, and has a damaged object forgotten.

Refused: objects of more than a quarter of the limit, which would drive out everything else
(`store.for_download` keeps downloads of that size away).

Objects are immutable and their ids are never reused, so nothing here is ever out of date.

    FOLDER/CACHEDIR.TAG      for backup programs: not worth keeping (https://bford.info/cachedir/)
    FOLDER/books             the lock; holds the sum of the sizes, and how useful the cache was
    FOLDER/objects/ID        one object, see `objectfile`; its mtime is when it was last used
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from asyncart.errors import Unavailable

from .. import disk
from . import objectfile
from .filelock import PATIENCE_S, Busy, locked
from .objectfile import Span

logger = logging.getLogger("asyncart.cache")

LARGEST_PART = 4  # an object may take that part of the limit
SPARE_PART = 32  # evict that part of the limit more than needed: not a listing for every range
OWN_BYTES = 8 << 10  # the tag and the books, a block each
KEEP_FREE_PART = 20  # 5 % of the disk stay free, and
KEEP_FREE_BYTES = 1 << 30  # no less than this
TOUCH_S = 60.0  # how exact the time of the last use is: a cheap write per minute and object
WRITE_S = 5.0  # longer a reader does not wait for a range to be kept (16 MiB: 3 MiB/s)
STEP_BYTES = 4 << 20  # between two looks at the clock
REST_S = (
    600.0  # off for that long after an error: longer than a command runs, not for ever in a service
)
BUSY_REST_S = 5.0

TAG = """Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache of asyncart: it can be removed at any time.
# https://bford.info/cachedir/
"""

_ID = re.compile("[0-9a-f]{32}")
_resting: dict[str, float] = {}  # by folder: until when, in the time of `monotonic`
_warned: set[str] = set()  # folders; once in the life of a process


class CachedObject(msgspec.Struct, frozen=True):
    """An object, wholly or in part; `bytes` are those on the disk, `used_at` seconds since 1970."""

    object_id: str
    bytes: int
    used_at: float


class Removed(NamedTuple):
    objects: int
    bytes: int


class Statistics(msgspec.Struct, frozen=True):
    """What was asked of the cache since it was made or cleared: reads, and their bytes."""

    hits: int = 0
    hit_bytes: int = 0
    misses: int = 0
    missed_bytes: int = 0

    def plus(self, other: Statistics) -> Statistics:
        return Statistics(
            self.hits + other.hits,
            self.hit_bytes + other.hit_bytes,
            self.misses + other.misses,
            self.missed_bytes + other.missed_bytes,
        )


class _Books:
    """What the books say, while their lock is held."""

    FORMAT = struct.Struct("<8sQQQQQ")
    MAGIC = b"ascache1"

    def __init__(self, total: int | None, statistics: Statistics) -> None:
        self.total = total  # None: not known, count them
        self.statistics = statistics

    @classmethod
    def load(cls, fd: int) -> _Books:
        data = bytearray(cls.FORMAT.size)
        if disk.read_at(fd, 0, memoryview(data)) == len(data) and data.startswith(cls.MAGIC):
            _, total, *counts = cls.FORMAT.unpack(data)
            return cls(total, Statistics(*counts))
        return cls(None, Statistics())

    def save(self, fd: int) -> None:
        counts = msgspec.structs.astuple(self.statistics)
        data = self.FORMAT.pack(self.MAGIC, max(0, self.total or 0), *counts)
        objectfile.put(fd, data)


class ObjectCache:
    """All methods block: they are for worker threads. Nothing is held between two calls.

    `keep_free_bytes` is what it leaves free of the disk (default: 5 %, and 1 GiB at least).
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        limit_bytes: int,
        *,
        keep_free_bytes: int | None = None,
    ) -> None:
        self.folder = os.path.abspath(folder)
        self.limit_bytes = limit_bytes
        self._keep_free_bytes = keep_free_bytes
        self._objects = os.path.join(self.folder, "objects")
        self._books = os.path.join(self.folder, "books")
        self._news = Statistics()  # not yet in the books

    # reading

    def read(self, object_id: str, start: int, buffer: memoryview) -> Span | None:
        """Fill the buffer with what is there of the object from `start` on.

        Returns which part of the buffer was not (None: all of it was there). What lies in between may
        have been written, too.
        """
        everything = (0, buffer.nbytes)
        gap: Span | None = everything
        with contextlib.suppress(OSError):  # unreadable is as good as not there
            fd = os.open(self._path(object_id), os.O_RDONLY | disk.OPEN_FLAGS)
            try:
                gap = _fill(fd, start, buffer)
                if gap != everything:
                    _touch(fd)
            finally:
                os.close(fd)
        missed = 0 if gap is None else gap[1] - gap[0]
        self._news = self._news.plus(
            Statistics(int(not missed), buffer.nbytes - missed, int(missed > 0), missed)
        )
        return gap

    # writing

    def add(
        self, object_id: str, start: int, data: memoryview, object_bytes: int | None = None
    ) -> None:
        """Keep bytes of the object; not if it is too large, and never with an error.

        `object_bytes` is the size of the whole object, where it is known.
        """
        largest = self.limit_bytes // LARGEST_PART
        if max(start + data.nbytes, object_bytes or 0) > largest:
            if start < largest:
                self.forget(object_id)  # its beginning was taken before its size was known
            return
        if not data.nbytes or self.is_resting:
            return
        try:
            if self._has_free_disk(data.nbytes) and self._reserve(data.nbytes):
                self._write(object_id, start, data)
        except Busy:
            logger.debug("%s: its lock is held by somebody else; not used meanwhile", self.folder)
            _resting[self.folder] = time.monotonic() + BUSY_REST_S
        except OSError as error:
            self._rest(error)

    @property
    def is_resting(self) -> bool:
        """Whether nothing is kept for now, because of an error."""
        return time.monotonic() < _resting.get(self.folder, 0.0)

    def _rest(self, error: OSError) -> None:
        level = logging.DEBUG if self.folder in _warned else logging.WARNING
        _warned.add(self.folder)
        _resting[self.folder] = time.monotonic() + REST_S
        logger.log(
            level,
            "the cache in %s is off for now: %s; downloads go on without it",
            self.folder,
            error.strerror or error,
        )

    def _has_free_disk(self, wanted: int) -> bool:
        try:
            usage = shutil.disk_usage(self.folder)
        except FileNotFoundError:
            self._make_folder()
            usage = shutil.disk_usage(self.folder)
        keep = self._keep_free_bytes
        if keep is None:
            keep = max(usage.total // KEEP_FREE_PART, KEEP_FREE_BYTES)
        return usage.free - wanted >= keep

    def _reserve(self, wanted: int) -> bool:
        """Enter the bytes into the books, after making room for them."""
        wanted += objectfile.HEADER_BYTES
        limit = self.limit_bytes - OWN_BYTES
        with self._open_books() as books:
            if books.total is None or books.total + wanted > limit:
                found = self.objects()
                books.total = sum(each.bytes for each in found)
                if books.total + wanted > limit:
                    goal = limit - max(wanted, limit // SPARE_PART)
                    books.total -= self._remove_oldest(found, books.total - goal).bytes
            if books.total + wanted > limit:
                return False  # what is left could not be removed
            books.total += wanted
        return True

    def _write(self, object_id: str, start: int, data: memoryview) -> None:
        deadline = time.monotonic() + WRITE_S
        fd = self._create(self._path(object_id))
        try:
            for done in range(0, data.nbytes, STEP_BYTES):
                if time.monotonic() > deadline:
                    raise OSError(errno.ETIMEDOUT, "writing to it takes too long")
                objectfile.write(fd, start + done, data[done : done + STEP_BYTES])
            with self._open_books():
                objectfile.record(fd, (start, start + data.nbytes))
        except BaseException:
            self._abandon(fd, object_id)
            raise
        finally:
            os.close(fd)

    def _abandon(self, fd: int, object_id: str) -> None:
        """Give back the space of bytes that nobody can read; the disk may be full."""
        with contextlib.suppress(OSError):
            if not objectfile.read_spans(fd):
                self.forget(object_id)

    def _create(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | disk.OPEN_FLAGS
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:  # somebody has removed the folder
            self._make_folder()
            return os.open(path, flags, 0o600)

    def _make_folder(self) -> None:
        os.makedirs(self._objects, mode=0o700, exist_ok=True)
        tag = os.path.join(self.folder, "CACHEDIR.TAG")
        if not os.path.exists(tag):
            with open(tag, "w", encoding="ascii") as file:
                file.write(TAG)

    @contextlib.contextmanager
    def _open_books(self) -> Iterator[_Books]:
        """The books, locked and written back; what was counted since is entered."""
        if not os.path.isdir(self._objects):
            self._make_folder()
        with locked(self._books) as fd:
            books = _Books.load(fd)
            news, self._news = self._news, Statistics()
            books.statistics = books.statistics.plus(news)
            if books.total is None:
                books.total = sum(each.bytes for each in self.objects())
            try:
                yield books
            finally:
                books.save(fd)

    # removing

    def forget(self, object_id: str) -> bool:
        """Remove the object; False if it was not there. Who reads it now still can."""
        try:
            return _unlink(self._path(object_id))
        except OSError:
            return False

    def prune(self, to_bytes: int) -> Removed:
        """Remove those that were not used for the longest time until at most `to_bytes` are left.

        Raises Unavailable or Denied where that cannot be.
        """
        return self._prune(to_bytes)

    def clear(self) -> Removed:
        """Remove all objects, and forget how useful they were."""
        return self._prune(-1, is_fresh_start=True)  # empty files, too

    def _prune(self, to_bytes: int, *, is_fresh_start: bool = False) -> Removed:
        if not os.path.isdir(self._objects):
            return Removed(0, 0)
        try:
            with disk.translated("cache", self.folder), self._open_books() as books:
                found = self.objects()
                total = sum(each.bytes for each in found)
                removed = self._remove_oldest(found, total - to_bytes)
                books.total = total - removed.bytes
                if is_fresh_start:
                    books.statistics = Statistics()
                return removed
        except Busy as error:
            raise Unavailable(
                f"{self.folder}: another process has kept it locked for {PATIENCE_S:.0f} s; try again"
            ) from error

    def _remove_oldest(self, found: list[CachedObject], wanted_bytes: int) -> Removed:
        objects = freed = 0
        for each in sorted(found, key=lambda each: each.used_at):
            if freed >= wanted_bytes:
                break
            with contextlib.suppress(OSError):  # Windows keeps what somebody reads
                _unlink(self._path(each.object_id))
                objects += 1
                freed += each.bytes
        return Removed(objects, freed)

    # looking

    def objects(self) -> list[CachedObject]:
        """All of them, in no order; other people's files in the folder are left alone."""
        found = []
        try:
            with os.scandir(self._objects) as entries:
                for entry in entries:
                    if _ID.fullmatch(entry.name):
                        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                            facts = entry.stat(follow_symlinks=False)
                            size = objectfile.occupied_bytes(facts)
                            found.append(CachedObject(entry.name, size, facts.st_mtime))
        except FileNotFoundError:
            pass
        return found

    def statistics(self) -> Statistics:
        """As far as processes have entered it: each one does when it writes, and at its end."""
        try:
            with open(self._books, "rb") as file:
                return _Books.load(file.fileno()).statistics.plus(self._news)
        except OSError:
            return self._news

    def save_statistics(self) -> None:
        """Enter what was counted; not worth an error."""
        if self._news != Statistics() and os.path.isdir(self._objects):
            with contextlib.suppress(OSError, Busy), self._open_books():
                pass

    def _path(self, object_id: str) -> str:
        return os.path.join(self._objects, object_id)


def is_object_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def _fill(fd: int, start: int, buffer: memoryview) -> Span | None:
    """Read what is there of the wanted range around its gap; returns the gap."""
    stop = start + buffer.nbytes
    gap = objectfile.missing(objectfile.read_spans(fd), start, stop)
    low, high = (stop, stop) if gap is None else gap
    head, tail = buffer[: low - start], buffer[high - start :]
    if not (objectfile.read(fd, start, head) and objectfile.read(fd, high, tail)):
        return 0, buffer.nbytes  # somebody has cut the file
    return None if gap is None else (low - start, high - start)


def _touch(fd: int) -> None:
    """Note that it was used, so that it is evicted later."""
    now = time.time()
    if os.utime in os.supports_fd and abs(now - os.fstat(fd).st_mtime) > TOUCH_S:
        with contextlib.suppress(OSError):
            os.utime(fd, (now, now))


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
