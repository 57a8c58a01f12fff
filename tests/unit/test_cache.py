"""The cache for objects of remote stores: what it keeps, what it lets go, and what cannot break it."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncart.errors import Corrupt, NotFound, Unavailable
from asyncart.model import new_object_id, object_key
from asyncart.stores import disk
from asyncart.stores.cache import CachedStore, ObjectCache, filelock, folder, objectfile
from asyncart.stores.cache.store import uncached, with_cache
from asyncart.stores.local import LocalStore
from asyncart.stores.memory import MemoryStore
from asyncart.stores.protocol import forget_cached
from asyncart.stores.wrappers import CountingStore

KIB = 1 << 10
MIB = 1 << 20
LIMIT = 8 * MIB
HEADER = objectfile.HEADER_BYTES


@pytest.fixture(autouse=True)
def _awake() -> Iterator[None]:
    yield
    folder._resting.clear()


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path / "cache", LIMIT, keep_free_bytes=0)


@pytest.fixture
def below() -> CountingStore:
    """A remote store that counts what it is asked for."""
    store = CountingStore(MemoryStore())
    store.is_local = False
    return store


@pytest.fixture
def store(below: CountingStore, cache: ObjectCache) -> CachedStore:
    return CachedStore(below, cache)


def new_id() -> str:
    return new_object_id(1_700_000_000_000)


def content(size: int, seed: object = 0) -> bytes:
    return random.Random(str(seed)).randbytes(size)


async def put(store: CachedStore, data: bytes) -> str:
    key = object_key(new_id())
    await store.write(key, [memoryview(data)])
    return key


async def read(store: CachedStore, key: str, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    await store.read_into(key, offset, memoryview(buffer))
    return bytes(buffer)


def held(cache: ObjectCache, object_id: str, start: int, length: int) -> bytes | None:
    buffer = memoryview(bytearray(length))
    return bytes(buffer) if cache.read(object_id, start, buffer) is None else None


def used_at(cache: ObjectCache, object_id: str, seconds: float) -> None:
    os.utime(file_of(cache, object_id), (seconds, seconds))


def file_of(cache: ObjectCache, object_id: str) -> str:
    return os.path.join(cache.folder, "objects", object_id)


def damage(cache: ObjectCache, object_id: str, offset: int) -> None:
    with open(file_of(cache, object_id), "r+b") as file:
        file.seek(HEADER + offset)
        byte = file.read(1)
        file.seek(HEADER + offset)
        file.write(bytes([byte[0] ^ 0xFF]))


def size_on_disk(cache: ObjectCache) -> int:
    """By the system's own account, all files of the folder."""
    total = 0
    for here, _, names in os.walk(cache.folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
                total += os.lstat(os.path.join(here, name)).st_blocks * 512
    return total


# --- spans ---


@pytest.mark.parametrize(
    ("spans", "wanted", "gap"),
    [
        ([], (0, 10), (0, 10)),
        ([(0, 10)], (0, 10), None),
        ([(0, 10)], (2, 8), None),
        ([(0, 10)], (9, 11), (10, 11)),
        ([(0, 10)], (10, 11), (10, 11)),
        ([(5, 10)], (0, 10), (0, 5)),
        ([(5, 10)], (0, 5), (0, 5)),
        ([(5, 10)], (0, 20), (0, 20)),
        ([(0, 5), (10, 20)], (2, 15), (5, 10)),
        ([(0, 5), (7, 8), (10, 20)], (2, 15), (5, 10)),
        ([(0, 5), (7, 8)], (6, 7), (6, 7)),
        ([(0, 5), (7, 8)], (7, 8), None),
    ],
)
def test_the_gap_is_from_the_first_to_the_last_missing_byte(
    spans: list[tuple[int, int]], wanted: tuple[int, int], gap: tuple[int, int] | None
) -> None:
    assert objectfile.missing(spans, *wanted) == gap


def test_any_order_of_records_says_the_same_as_a_set_of_bytes(tmp_path: Path) -> None:
    """Against a model: which bytes are there, and where the gap of any range is."""
    numbers = random.Random(1)
    for turn in range(30):
        fd = os.open(tmp_path / str(turn), os.O_RDWR | os.O_CREAT)
        there: set[int] = set()
        for _ in range(numbers.randrange(1, 12)):
            start = numbers.randrange(60)
            stop = start + numbers.randrange(1, 10)
            objectfile.record(fd, (start, stop))
            there |= set(range(start, stop))
        spans = objectfile.read_spans(fd)
        assert {n for span in spans for n in range(*span)} == there
        assert spans == objectfile.merged(spans)
        for _ in range(30):
            start = numbers.randrange(70)
            stop = start + numbers.randrange(1, 20)
            absent = [n for n in range(start, stop) if n not in there]
            gap = (absent[0], absent[-1] + 1) if absent else None
            assert objectfile.missing(spans, start, stop) == gap
        os.close(fd)


def test_more_fragments_than_records_lose_the_smallest(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    spans = [(n * 100, n * 100 + 10) for n in range(objectfile.MAX_RECORDS - 1)]
    records = b"".join(objectfile.RECORD.pack(*span, objectfile._checksum(*span)) for span in spans)
    objectfile.put(fd, (objectfile.MAGIC + records).ljust(HEADER, b"\0"))
    objectfile.record(fd, (1 << 40, (1 << 40) + 50))
    assert len(objectfile.read_spans(fd)) == objectfile.MAX_RECORDS
    objectfile.record(fd, (1 << 41, (1 << 41) + 5))
    found = objectfile.read_spans(fd)
    assert len(found) == objectfile.MAX_RECORDS
    assert found == [*spans, (1 << 40, (1 << 40) + 50)]
    os.close(fd)


@pytest.mark.parametrize("position", [0, 31, 32, 40, 51])
def test_a_damaged_header_says_nothing_wrong(tmp_path: Path, position: int) -> None:
    """A record with a flipped bit is no record; one of its neighbours still may be."""
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    objectfile.record(fd, (0, 10))
    objectfile.record(fd, (20, 30))
    byte = os.pread(fd, 1, position)[0]
    os.pwrite(fd, bytes([byte ^ 4]), position)
    assert set(objectfile.read_spans(fd)) <= {(20, 30)}
    os.close(fd)


# --- hits and misses ---


async def test_what_was_read_once_is_not_asked_for_again(
    store: CachedStore, below: CountingStore
) -> None:
    data = content(100 * KIB)
    key = await put(store, data)
    below.clear()
    assert await read(store, key, 0, len(data)) == data
    assert await read(store, key, 0, len(data)) == data
    assert await read(store, key, 5, 17) == data[5:22]
    assert below.reads == [(key, 0, len(data))]


async def test_only_what_is_missing_is_asked_for(store: CachedStore, below: CountingStore) -> None:
    """One file of a pack does not pull the pack; a range around it asks once, for the hull of its gap."""
    data = content(100 * KIB)
    key = await put(store, data)
    below.clear()
    for offset, length in [
        (50_000, 1000),
        (49_500, 800),
        (50_900, 600),
        (10, 90_000),
        (0, 102_400),
    ]:
        assert await read(store, key, offset, length) == data[offset : offset + length]
    assert [(offset, length) for _, offset, length in below.reads] == [
        (50_000, 1000),
        (49_500, 500),
        (51_000, 500),
        (10, 90_000),
        (0, 102_400),
    ]
    below.clear()
    assert await read(store, key, 3, 102_000) == data[3:102_003]
    assert below.reads == []


async def test_another_process_finds_it(store: CachedStore, below: CountingStore) -> None:
    data = content(70 * KIB)
    key = await put(store, data)
    await read(store, key, 0, len(data))
    below.clear()
    other = CachedStore(below, ObjectCache(store.cache.folder, LIMIT, keep_free_bytes=0))
    assert await read(other, key, 0, len(data)) == data
    assert below.requests == {}


async def test_errors_of_the_store_are_its_own_and_nothing_is_kept(store: CachedStore) -> None:
    key = await put(store, b"x" * 100)
    with pytest.raises(Corrupt):
        await read(store, key, 50, 51)
    missing = object_key(new_id())
    with pytest.raises(NotFound):
        await read(store, missing, 0, 1)
    assert store.cache.objects() == []


@pytest.mark.parametrize("key", ["a/b", "../../x", "objects/00/" + "0" * 31, "x/" + "0" * 32])
async def test_only_objects_of_ours_are_cached(
    store: CachedStore, below: CountingStore, key: str
) -> None:
    """A key is a part of a path only if it is an object's: 32 hex digits."""
    await store.write(key, [memoryview(b"data")])
    below.clear()
    for _ in range(2):
        assert await read(store, key, 0, 4) == b"data"
    assert below.requests["read_into"] == 2
    assert store.cache.objects() == []
    assert not await store.forget_cached(key)


async def test_a_deleted_object_is_gone_from_the_cache_too(store: CachedStore) -> None:
    key = await put(store, b"data")
    await read(store, key, 0, 4)
    await store.delete([key])
    with pytest.raises(NotFound):
        await read(store, key, 0, 4)


def test_only_a_remote_store_with_a_limit_gets_a_cache(
    tmp_path: Path, below: CountingStore
) -> None:
    assert isinstance(with_cache(below, str(tmp_path / "cache"), 1 << 30), CachedStore)
    assert with_cache(below, str(tmp_path / "cache"), 0) is below
    local = LocalStore(tmp_path / "store")
    assert with_cache(local, str(tmp_path / "cache"), 1 << 30) is local
    assert not (tmp_path / "cache").exists()
    assert uncached(with_cache(below, str(tmp_path / "cache"), 1)) is below
    assert uncached(local) is local


async def test_hits_and_misses_are_counted_across_processes(
    store: CachedStore, cache: ObjectCache
) -> None:
    key = await put(store, content(1000))
    await read(store, key, 0, 1000)
    await read(store, key, 0, 600)
    await store.aclose()
    other = ObjectCache(cache.folder, LIMIT)
    assert other.statistics() == folder.Statistics(1, 600, 1, 1000)
    other.clear()
    assert other.statistics() == folder.Statistics()


def test_the_folder_says_what_it_is(cache: ObjectCache) -> None:
    """Backup programs leave it out; nobody else may read it."""
    cache.add(new_id(), 0, memoryview(b"x"))
    tag = Path(cache.folder, "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    assert os.stat(os.path.join(cache.folder, "objects")).st_mode & 0o77 == 0
    assert os.stat(file_of(cache, cache.objects()[0].object_id)).st_mode & 0o77 == 0


# --- damage ---


async def test_wrong_bytes_are_forgotten_and_asked_for_again(
    store: CachedStore, below: CountingStore
) -> None:
    data = content(50 * KIB)
    key = await put(store, data)
    await read(store, key, 0, len(data))
    damage(store.cache, key[-32:], 1234)
    assert await read(store, key, 0, len(data)) != data
    below.clear()
    assert await forget_cached(store, key)
    assert await read(store, key, 0, len(data)) == data
    assert below.requests["read_into"] == 1
    assert await read(store, key, 0, len(data)) == data
    assert below.requests["read_into"] == 1


async def test_bytes_that_never_came_from_the_cache_are_the_stores_own_fault(
    store: CachedStore, below: CountingStore
) -> None:
    """Then reading again makes no sense, but the wrong bytes do not stay in the cache."""
    key = await put(store, b"wrong from the start")
    await read(store, key, 0, 20)
    assert not await forget_cached(store, key)
    assert store.cache.objects() == []
    assert not await forget_cached(below, key)


async def test_two_readers_of_one_damaged_object_both_read_again(store: CachedStore) -> None:
    """The first one drops the copy; the second one still hears that its bytes came from there."""
    key = await put(store, content(20 * KIB))
    await read(store, key, 0, 20 * KIB)
    await read(store, key, 0, 10)
    assert await forget_cached(store, key)
    assert await forget_cached(store, key)


@pytest.mark.parametrize("length", [0, 1, 31, HEADER - 1, HEADER, HEADER + 100])
async def test_a_file_that_was_cut_is_no_hit(store: CachedStore, length: int) -> None:
    data = content(5000)
    key = await put(store, data)
    await read(store, key, 0, len(data))
    os.truncate(file_of(store.cache, key[-32:]), length)
    for _ in range(2):
        assert await read(store, key, 0, len(data)) == data


# --- the limit ---


def test_those_not_used_for_the_longest_time_go_first(cache: ObjectCache) -> None:
    ids = [new_id() for _ in range(7)]
    for number, object_id in enumerate(ids):
        cache.add(object_id, 0, memoryview(content(MIB, number)))
        used_at(cache, object_id, 1_000_000 + number)
    assert held(cache, ids[0], 0, 10) is not None  # used: now the youngest
    cache.add(new_id(), 0, memoryview(content(2 * MIB)))
    left = {each.object_id for each in cache.objects()}
    assert ids[0] in left
    assert [object_id in left for object_id in ids[1:]] == [False, False, True, True, True, True]


def test_the_limit_holds_after_every_write(cache: ObjectCache) -> None:
    """By the system's account of the blocks, through many times the limit, in ranges of all sizes."""
    numbers = random.Random(3)
    written = 0
    while written < 6 * LIMIT:
        object_id, size = new_id(), numbers.choice([1, 5000, 300_000, 2 * MIB])
        step = numbers.choice([size, max(1, size // 3)])
        data = memoryview(content(size))
        for start in range(0, size, step):
            cache.add(object_id, start, data[start : start + step])
            assert size_on_disk(cache) <= LIMIT
        assert held(cache, object_id, 0, size) == bytes(data)
        written += size
    assert size_on_disk(cache) > LIMIT // 2


def test_an_object_of_more_than_a_quarter_is_not_kept(cache: ObjectCache) -> None:
    largest = LIMIT // 4
    data = memoryview(content(MIB))
    fits, too_large, grows = new_id(), new_id(), new_id()
    cache.add(fits, largest - MIB, data)
    assert held(cache, fits, largest - MIB, MIB) == bytes(data)
    cache.add(too_large, 0, data, largest + 1)
    assert held(cache, too_large, 0, MIB) is None
    cache.add(grows, 0, data)
    assert held(cache, grows, 0, MIB) == bytes(data)
    cache.add(grows, largest - MIB + 1, data)  # only now it shows how large it is
    assert {each.object_id for each in cache.objects()} == {fits}


async def test_the_size_of_an_object_is_learnt_on_the_way(cache: ObjectCache) -> None:
    """A store that says it (S3: Content-Range) spares the cache the beginning of what is too large."""

    class Telling(MemoryStore):
        is_local = False

        async def read_measured(self, key: str, offset: int, buffer: memoryview) -> int | None:
            await self.read_into(key, offset, buffer)
            return len(self.objects[key])

    store = CachedStore(Telling(), cache)
    large = await put(store, bytes(LIMIT // 4 + 1))
    small = await put(store, bytes(LIMIT // 4))
    await read(store, large, 0, 10)
    await read(store, small, 0, 10)
    assert [each.object_id for each in cache.objects()] == [small[-32:]]


def test_concurrent_writers_stay_within_one_range_each(tmp_path: Path) -> None:
    """Processes that write as fast as they can, watched from outside all the time."""
    cache = ObjectCache(tmp_path / "cache", LIMIT, keep_free_bytes=0)
    piece = 256 * KIB
    script = f"""
import os, sys
from asyncart.model import new_object_id
from asyncart.stores.cache import ObjectCache
cache = ObjectCache({cache.folder!r}, {LIMIT}, keep_free_bytes=0)
data = memoryview(os.urandom({piece}))
for _ in range(40):
    object_id = new_object_id(1)
    for start in range(0, 4 * {piece}, {piece}):
        cache.add(object_id, start, data)
        buffer = memoryview(bytearray({piece}))
        if cache.read(object_id, start, buffer) is None:
            assert buffer == data
"""
    processes = [start_python(script) for _ in range(3)]
    most = 0
    while any(process.poll() is None for process in processes):
        most = max(most, size_on_disk(cache))
        time.sleep(0.002)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert LIMIT // 2 < most <= LIMIT + 3 * (piece + HEADER)
    assert size_on_disk(cache) <= LIMIT + 3 * (piece + HEADER)


def test_many_threads_fill_one_object_completely(cache: ObjectCache) -> None:
    """No record is lost: afterwards the whole object is there."""
    data, object_id, step = content(2 * MIB - 1), new_id(), 64 * KIB
    starts = [*range(0, len(data), step)] * 2
    random.Random(5).shuffle(starts)

    def fill() -> None:
        while starts:
            try:
                start = starts.pop()
            except IndexError:
                return
            cache.add(object_id, start, memoryview(data)[start : start + step])

    threads = [threading.Thread(target=fill) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(cache, object_id, 0, len(data)) == data


def test_processes_fill_one_object_together(cache: ObjectCache) -> None:
    data, object_id, step = content(2 * MIB, "shared"), new_id(), 64 * KIB
    script = f"""
import random, sys
from asyncart.stores.cache import ObjectCache
cache = ObjectCache({cache.folder!r}, {LIMIT}, keep_free_bytes=0)
data = random.Random("shared").randbytes({len(data)})
for start in range(int(sys.argv[1]) * {step}, len(data), 3 * {step}):
    cache.add({object_id!r}, start, memoryview(data)[start : start + {step}])
"""
    processes = [start_python(script, str(number)) for number in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert held(cache, object_id, 0, len(data)) == data


def test_the_books_are_counted_anew_when_they_are_lost_or_wrong(cache: ObjectCache) -> None:
    for number in range(6):
        cache.add(new_id(), 0, memoryview(content(MIB, number)))
    for books in (None, b"nonsense", b"ascache1" + b"\0" * 40):
        path = os.path.join(cache.folder, "books")
        os.unlink(path)
        if books is not None:
            Path(path).write_bytes(books)
        for _ in range(4):
            cache.add(new_id(), 0, memoryview(content(MIB)))
        if books is None or books == b"nonsense":
            assert size_on_disk(cache) <= LIMIT
        cache.prune(6 * MIB)
        assert size_on_disk(cache) <= 6 * MIB + 64 * KIB


# --- killed at any point ---


@pytest.mark.parametrize("step", ["create", "write", "record", "put"])
def test_whatever_a_killed_process_leaves_is_true(cache: ObjectCache, step: str) -> None:
    """Killed before each step of the second range: the first is there, the second is fetched again."""
    data, object_id = content(300_000, "killed"), new_id()
    script = f"""
import os, random, signal, sys
from asyncart.stores.cache import ObjectCache, objectfile, folder
cache = ObjectCache({cache.folder!r}, {LIMIT}, keep_free_bytes=0)
data = memoryview(random.Random("killed").randbytes(300_000))
cache.add({object_id!r}, 0, data[:100_000])
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
if {step!r} == "create":
    cache._create = die
elif {step!r} == "put":  # in the middle of the record
    pwrite = os.pwrite
    def half(fd, data, offset):
        if data.startswith(objectfile.MAGIC):
            pwrite(fd, data[:60], offset)
            die()
        return pwrite(fd, data, offset)
    os.pwrite = half
else:
    setattr(objectfile, {step!r}, die)
cache.add({object_id!r}, 100_000, data[100_000:])
"""
    process = start_python(script)
    assert process.wait(60) == -signal.SIGKILL
    assert held(cache, object_id, 0, 100_000) == data[:100_000]
    assert held(cache, object_id, 100_000, 10) in (None, data[100_000:100_010])
    cache.add(object_id, 100_000, memoryview(data)[100_000:])  # no lock is left behind
    assert held(cache, object_id, 0, 300_000) == data


def test_a_stopped_process_holds_nobody_up(cache: ObjectCache) -> None:
    """Its lock is waited for no longer than a moment; then the cache is left alone for a while."""
    cache.add(new_id(), 0, memoryview(b"first"))
    script = f"""
import os, signal
from asyncart.stores.cache.filelock import locked
with locked({os.path.join(cache.folder, "books")!r}):
    print("locked", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    with start_python(script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"locked\n"
            object_id, began = new_id(), time.monotonic()
            for _ in range(20):
                cache.add(object_id, 0, memoryview(b"second"))
            assert time.monotonic() - began < 3 * filelock.PATIENCE_S
            assert cache.is_resting
            assert held(cache, object_id, 0, 6) is None
            with pytest.raises(Unavailable, match="locked"):
                cache.prune(0)
        finally:
            process.kill()


def test_a_fork_in_the_middle_keeps_no_lock(cache: ObjectCache) -> None:
    """The child has the same open file; the lock is given back in words, not by closing alone."""
    cache.add(new_id(), 0, memoryview(b"first"))
    with filelock.locked(os.path.join(cache.folder, "books")):
        child = subprocess_fork_that_sleeps()
    try:
        cache.add(new_id(), 0, memoryview(b"second"))
        assert not cache.is_resting
        assert len(cache.objects()) == 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def subprocess_fork_that_sleeps() -> int:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child


# --- disks that are full, slow or broken ---


def test_a_short_disk_is_left_to_others(cache: ObjectCache) -> None:
    """5 % and a GiB stay free, whatever the limit says."""
    free = shutil.disk_usage(Path(cache.folder).parent).free
    careful = ObjectCache(cache.folder, LIMIT, keep_free_bytes=2 * free)
    careful.add(new_id(), 0, memoryview(content(MIB)))
    assert careful.objects() == []
    assert not careful.is_resting


def test_the_default_keeps_five_percent_and_a_gib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ObjectCache(tmp_path / "cache", LIMIT)
    cases = [
        (100 << 30, 5 << 30, 0, True),
        (100 << 30, (5 << 30) - 1, 0, False),
        (10 << 30, 1 << 30, 0, True),
        (10 << 30, (1 << 30) - 1, 0, False),
        (10 << 30, 1 << 30, 1, False),
    ]
    for total, free, wanted, expected in cases:
        usage = shutil._ntuple_diskusage(total, total - free, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        assert cache._has_free_disk(wanted) is expected


async def test_a_full_disk_fails_no_download(
    disk_1_mib: Path, below: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What is read is right, the cache is off, that is said once, and what is there stays of use."""
    cache = ObjectCache(disk_1_mib / "cache", 64 * MIB, keep_free_bytes=-64 * MIB)
    store = CachedStore(below, cache)
    data = content(700 * KIB)
    keys = [await put(store, data) for _ in range(4)]
    with caplog.at_level(logging.WARNING, "asyncart"):
        for key in keys:
            assert await read(store, key, 0, len(data)) == data
    assert len(caplog.records) == 1
    assert "downloads go on without it" in caplog.text
    assert cache.is_resting
    assert [each.object_id for each in cache.objects()] == [keys[0][-32:]]
    below.clear()
    assert await read(store, keys[0], 0, len(data)) == data
    assert below.requests == {}


@pytest.mark.parametrize("broken", ["write", "record"])
async def test_a_broken_disk_fails_no_download(
    store: CachedStore, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(objectfile, broken, fail)
    key = await put(store, b"data")
    for _ in range(3):
        assert await read(store, key, 0, 4) == b"data"
    assert store.cache.is_resting
    assert store.cache.objects() == []


async def test_an_unreadable_file_is_no_hit(store: CachedStore) -> None:
    """A folder in the place of the file: any error there is."""
    key = await put(store, b"data")
    os.makedirs(file_of(store.cache, key[-32:]))
    assert await read(store, key, 0, 4) == b"data"
    assert not await forget_cached(store, key)


def test_a_slow_disk_is_given_up(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "WRITE_S", -1.0)
    cache.add(new_id(), 0, memoryview(b"data"))
    assert cache.is_resting
    assert cache.objects() == []


def test_it_works_again_after_its_rest(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "REST_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "WRITE_S", -1.0)
        cache.add(new_id(), 0, memoryview(b"data"))
    object_id = new_id()
    cache.add(object_id, 0, memoryview(b"data"))
    assert held(cache, object_id, 0, 4) == b"data"


# --- removing ---


@pytest.mark.parametrize("remove", ["prune", "clear", "rmtree"])
def test_removing_while_somebody_reads_and_writes(
    cache: ObjectCache, monkeypatch: pytest.MonkeyPatch, remove: str
) -> None:
    """An open file stays readable; bytes written into a file without a name say nothing about the next."""
    data, object_id = content(MIB), new_id()
    cache.add(object_id, 0, memoryview(data)[: MIB // 2])
    removers: dict[str, Callable[[], object]] = {
        "prune": lambda: cache.prune(0),
        "clear": cache.clear,
        "rmtree": lambda: shutil.rmtree(cache.folder),
    }
    inner_read, inner_write = objectfile.read, objectfile.write

    def read_late(fd: int, start: int, buffer: memoryview) -> bool:
        if os.path.exists(file_of(cache, object_id)):
            removers[remove]()
        return inner_read(fd, start, buffer)

    def write_late(fd: int, start: int, piece: memoryview) -> None:
        inner_write(fd, start, piece)
        removers[remove]()

    with monkeypatch.context() as patch:
        patch.setattr(objectfile, "read", read_late)
        assert held(cache, object_id, 0, MIB // 2) == data[: MIB // 2]
    assert cache.objects() == []
    with monkeypatch.context() as patch:
        patch.setattr(objectfile, "write", write_late)
        cache.add(object_id, 0, memoryview(data))
    assert not cache.is_resting
    assert held(cache, object_id, 0, 10) is None
    cache.add(object_id, 0, memoryview(data))
    assert held(cache, object_id, 0, MIB) == data


def test_prune_goes_down_to_the_size_and_leaves_foreign_files(cache: ObjectCache) -> None:
    ids = [new_id() for _ in range(4)]
    for number, object_id in enumerate(ids):
        cache.add(object_id, 0, memoryview(content(MIB)))
        used_at(cache, object_id, 1_000_000 + number)
    foreign = Path(cache.folder, "objects", "README")
    foreign.write_text("mine")
    removed = cache.prune(2 * MIB + 64 * KIB)
    assert removed.objects == 2
    assert removed.bytes >= 2 * MIB
    assert {each.object_id for each in cache.objects()} == set(ids[2:])
    assert cache.prune(LIMIT) == (0, 0)
    assert cache.clear().objects == 2
    assert foreign.exists()


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "cache", LIMIT)
    assert cache.objects() == []
    assert cache.prune(0) == (0, 0)
    assert held(cache, new_id(), 0, 1) is None
    cache.save_statistics()
    assert not (tmp_path / "cache").exists()


async def test_a_cancelled_read_keeps_nothing_false(
    store: CachedStore, below: CountingStore
) -> None:
    """After any number of turns of the loop the buffer is free, and later reads are right."""
    data = content(MIB)
    for steps in range(12):
        key = await put(store, data)
        buffer = bytearray(MIB)
        async with anyio.create_task_group() as group:
            group.start_soon(store.read_into, key, 0, memoryview(buffer))
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert await read(store, key, 0, MIB) == data


def test_sizes_are_those_of_the_disk(cache: ObjectCache) -> None:
    """A sparse file counts as what it takes."""
    object_id = new_id()
    cache.add(object_id, MIB, memoryview(content(10_000)))
    (found,) = cache.objects()
    assert 10_000 < found.bytes < 10_000 + 2 * HEADER
    assert os.stat(file_of(cache, object_id)).st_size > MIB
    assert disk.size_text(found.bytes).endswith("KiB")


def start_python(script: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], **options)
