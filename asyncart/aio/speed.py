"""How fast are this store and this machine, and which of them is the limit?

Promised: bytes and objects as asyncart moves them (parts and ranges of 8 MiB, many at once, paced as ever),
under a random prefix that is removed; each of the four measurements ends when its share of the time is
over, whatever is done by then. Refused: verdicts about what was not measured.

The store's numbers are those of its verbs alone: no catalog, no disk. Hashing and the disk are measured by
themselves, because in a transfer all of them run at the same time, and the slowest one is its speed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import NamedTuple, TypeVar

import anyio
import msgspec

from ..config import Settings
from ..engine import chunking
from ..engine.tasks import task_group
from ..errors import AsyncartError, Invalid
from ..net.budget import Budget, process_budget
from ..stores import disk, open_configured
from ..stores.protocol import Store, Upload
from ..threads import check_cancelled, run_blocking
from .diagnose_store import nearest_folder, remove_empty_folders

T = TypeVar("T")

SIZE_BYTES = 256 << 20
FILES = 2000
SECONDS = 60.0
RANGE_BYTES = 8 << 20  # parts up, ranges down: as in a transfer
OBJECT_BYTES = 64 << 20
SMALL_BYTES = 10 << 10
LARGE_AT_ONCE = 32  # parts or ranges: the memory budget holds 32 of them
SMALL_AT_ONCE = 64  # the store's own pace lets fewer through as long as it learns
HASH_S = 0.5
DISK_BYTES = 256 << 20
DISK_S = 5.0
CLEANUP_S = 60.0  # thousands of small objects, one by one where the store has no bulk delete
BUSY = 0.9  # of a core: then the client is the limit, not what it talks to


class Speed(msgspec.Struct, frozen=True):
    """So many bytes in so many seconds, as so many requests; `cpu_s` is this process's time meanwhile."""

    name: str
    bytes: int
    seconds: float
    requests: int = 0
    cpu_s: float = 0.0

    @property
    def bytes_per_s(self) -> float:
        return self.bytes / self.seconds

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def is_client_busy(self) -> bool:
        return self.cpu_s >= BUSY * self.seconds


class SpeedReport(msgspec.Struct, frozen=True):
    """All that was measured, and the bottleneck in a sentence."""

    store: str
    speeds: tuple[Speed, ...]
    bottleneck: str


Tell = Callable[[Speed], object]


async def measure_speed(
    settings: Settings,
    url: str | None = None,
    *,
    size_bytes: int = SIZE_BYTES,
    files: int = FILES,
    seconds: float = SECONDS,
    tell: Tell | None = None,
) -> SpeedReport:
    """Measure the store (`url`, or the configured one), hashing, and the disk of ASYNCART_HOME.

    `size_bytes` go up and down in large objects, then `files` small objects; no more than `seconds` are
    spent on new requests. `tell` is called with each result as soon as it is known.
    """
    if size_bytes < 1 or files < 1 or seconds <= 0:
        raise Invalid("bench: size, files and seconds must be positive")
    found: dict[str, Speed] = {}

    def note(speed: Speed) -> None:
        found[speed.name] = speed
        if tell is not None:
            tell(speed)

    for speed in await run_blocking(_hashing):
        note(speed)
    for speed in await run_blocking(_disk, nearest_folder(settings.home), size_bytes):
        note(speed)
    store = await open_configured(
        url or settings.objects_url,
        stall_timeout_s=settings.stall_timeout_s,
        limit_rate_bytes=settings.limit_rate_bytes,
    )
    try:
        async with _corner(store) as corner:
            work = _StoreWork(store, corner, process_budget(settings.memory_bytes), seconds / 4)
            note(await work.upload(size_bytes))
            note(await work.download())
            note(await work.write_small(files))
            note(await work.read_small())
    finally:
        with anyio.CancelScope(shield=True):
            await store.aclose()
    return SpeedReport(store.url, tuple(found.values()), bottleneck(found))


UP = {"the store": "upload", "hashing": "hash and chunk", "reading the disk": "disk read"}
DOWN = {"the store": "download", "hashing": "hash", "writing the disk": "disk write"}


def bottleneck(found: dict[str, Speed]) -> str:
    """One sentence: what limits transfers of large files, and what the others could do."""
    return f"uploads are limited by {_limit(found, UP)}; downloads by {_limit(found, DOWN)}"


def _limit(found: dict[str, Speed], stages: dict[str, str]) -> str:
    rates = sorted((found[name].bytes_per_s, stage) for stage, name in stages.items())
    slowest_rate, slowest = rates[0]
    if slowest == "the store" and found[stages[slowest]].is_client_busy:
        slowest = "this process, which has one core busy with the store"
    others = ", ".join(f"{stage} {_rate(rate)}" for rate, stage in rates[1:])
    return f"{slowest}, {_rate(slowest_rate)} ({others})"


def _rate(bytes_per_s: float) -> str:
    return f"{disk.size_text(int(bytes_per_s))}/s"


class _StoreWork:
    """The four measurements, each for at most `share_s`. What is read was written before."""

    def __init__(self, store: Store, corner: str, budget: Budget, share_s: float) -> None:
        self._store, self._corner, self._budget, self._share_s = store, corner, budget, share_s
        self._random = memoryview(os.urandom(2 * RANGE_BYTES))
        self._large: dict[str, int] = {}
        self._small: list[str] = []

    async def upload(self, size_bytes: int) -> Speed:
        """Object after object, each one begun when its first part's turn has come."""
        uploads: dict[str, Upload] = {}
        sent: dict[str, int] = {}
        beginning = anyio.Lock()

        async def part(piece: Piece) -> None:
            async with beginning:
                if piece.key not in uploads:
                    # No size: a folder would reserve the space for an object that time may not allow.
                    uploads[piece.key] = await self._store.begin_upload(piece.key)
                    sent[piece.key] = 0
            body = self._body(piece.start + len(sent), piece.length)
            await uploads[piece.key].part(piece.start // RANGE_BYTES, piece.start, [body])
            sent[piece.key] += piece.length

        with _Clock() as clock:
            try:
                done = await self._at_once(LARGE_AT_ONCE, part, _pieces(self._objects(size_bytes)))
                for key in list(uploads):
                    # Pieces are taken in order and always finished: what was sent has no gap.
                    await uploads[key].complete(sent[key])
                    del uploads[key]
                    self._large[key] = sent[key]
            finally:
                await _abort_all(uploads.values())
        return clock.speed("upload", sum(sent.values()), done)

    def _objects(self, size_bytes: int) -> Iterator[tuple[str, int]]:
        for index, start in enumerate(range(0, size_bytes, OBJECT_BYTES)):
            yield f"{self._corner}large-{index}", min(OBJECT_BYTES, size_bytes - start)

    async def download(self) -> Speed:
        received = 0

        async def fetch(piece: Piece) -> None:
            nonlocal received
            async with self._budget.lease(piece.length) as buffer:
                await self._store.read_into(piece.key, piece.start, buffer)
            received += piece.length

        with _Clock() as clock:
            done = await self._at_once(LARGE_AT_ONCE, fetch, _pieces(self._large.items()))
        return clock.speed("download", received, done)

    async def write_small(self, files: int) -> Speed:
        async def write(key: str) -> None:
            await self._store.write(key, [self._body(len(self._small), SMALL_BYTES)])
            self._small.append(key)

        with _Clock() as clock:
            names = (f"{self._corner}small-{index}" for index in range(files))
            done = await self._at_once(SMALL_AT_ONCE, write, names)
        return clock.speed("small objects up", done * SMALL_BYTES, done)

    async def read_small(self) -> Speed:
        async def read(key: str) -> None:
            await self._store.read_into(key, 0, memoryview(bytearray(SMALL_BYTES)))

        with _Clock() as clock:
            done = await self._at_once(SMALL_AT_ONCE, read, self._small)
        return clock.speed("small objects down", done * SMALL_BYTES, done)

    async def _at_once(
        self, limit: int, work: Callable[[T], Awaitable[None]], items: Iterable[T]
    ) -> int:
        """Do the work for the items until they or the time are used up; at least one is done."""
        deadline = time.perf_counter() + self._share_s
        todo = iter(items)
        done = 0

        async def run() -> None:
            nonlocal done
            for item in todo:
                await work(item)
                done += 1
                if time.perf_counter() > deadline:
                    return

        async with task_group() as group:
            for _ in range(limit):
                group.start_soon(run)
        return done

    def _body(self, number: int, length: int) -> memoryview:
        """Random bytes, others for each number: stores may compress or deduplicate."""
        start = number * 4099 % (len(self._random) - length)
        return self._random[start : start + length]


class Piece(NamedTuple):
    """A part or a range of an object."""

    key: str
    start: int
    length: int


def _pieces(objects: Iterable[tuple[str, int]]) -> Iterator[Piece]:
    """Of these (key, size), object after object, in order."""
    for key, size in objects:
        for start in range(0, size, RANGE_BYTES):
            yield Piece(key, start, min(RANGE_BYTES, size - start))


async def _abort_all(uploads: Iterable[Upload]) -> None:
    with anyio.move_on_after(CLEANUP_S, shield=True):
        for upload in uploads:
            with contextlib.suppress(AsyncartError):
                await upload.abort()


@asynccontextmanager
async def _corner(store: Store) -> AsyncIterator[str]:
    """A prefix of our own; what is below it is deleted at the end."""
    corner = f"bench/{os.urandom(8).hex()}/"
    path = store.local_path(corner + "x")
    kept = "" if path is None else await run_blocking(nearest_folder, path)

    async def clean_up() -> None:
        with anyio.move_on_after(CLEANUP_S, shield=True):
            while keys := [item.key for item in (await store.list_page(corner)).objects]:
                await store.delete(keys)
            if path is not None:
                await run_blocking(remove_empty_folders, os.path.dirname(path), kept)

    try:
        yield corner
    except BaseException:
        with contextlib.suppress(AsyncartError):  # what went wrong first is to be told
            await clean_up()
        raise
    await clean_up()


class _Clock:
    """Wall and CPU seconds of a block."""

    def __enter__(self) -> _Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._wall = time.perf_counter() - self._wall
        self._cpu = time.process_time() - self._cpu

    def speed(self, name: str, nbytes: int, requests: int = 0) -> Speed:
        return Speed(name, nbytes, max(self._wall, 1e-9), requests, self._cpu)


# This machine; in worker threads


def _hashing() -> list[Speed]:
    """On all cores, from memory: cutting and hashing as an upload does, hashing as a download does."""
    return [_on_all_cores("hash and chunk", _cut_and_hash), _on_all_cores("hash", _hash)]


def _on_all_cores(name: str, work: Callable[[memoryview], object]) -> Speed:
    from concurrent.futures import ThreadPoolExecutor

    threads = os.cpu_count() or 1
    block = memoryview(os.urandom(RANGE_BYTES))
    work(block)  # loads what it needs

    def repeat() -> int:
        deadline = time.perf_counter() + HASH_S
        for rounds in count(1):
            work(block)
            if time.perf_counter() > deadline:
                return rounds
        raise AssertionError("count() has no end")

    with _Clock() as clock, ThreadPoolExecutor(threads) as pool:
        rounds = sum(pool.map(lambda _: repeat(), range(threads)))
    return clock.speed(name, rounds * len(block))


def _cut_and_hash(block: memoryview) -> None:
    chunking.hash_chunks(block, chunking.cut(block, True))


def _hash(block: memoryview) -> None:
    chunking.hash_chunks(block, [len(block)])


def _disk(folder: str, size_bytes: int) -> list[Speed]:
    """Write a file in the folder, until it is on the disk; read it, not from memory where that can be asked."""
    block = memoryview(os.urandom(RANGE_BYTES))
    size = min(size_bytes, DISK_BYTES)
    with disk.translated("bench", folder, size), tempfile.TemporaryFile(dir=folder) as file:
        fd = file.fileno()
        with _Clock() as writing:
            written = _until(size, lambda at, length: disk.write_at(fd, at, [block[:length]]))
            disk.sync_data(fd)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = memoryview(bytearray(RANGE_BYTES))
        with _Clock() as reading:
            read = _until(written, lambda at, length: disk.read_at(fd, at, buffer[:length]))
    return [reading.speed("disk read", read), writing.speed("disk write", written)]


def _until(size: int, step: Callable[[int, int], int]) -> int:
    """Bytes done when all of them, or the time, are used up."""
    deadline = time.perf_counter() + DISK_S
    done = 0
    while done < size and (not done or time.perf_counter() < deadline):
        check_cancelled()
        done += step(done, min(RANGE_BYTES, size - done))
    return done
