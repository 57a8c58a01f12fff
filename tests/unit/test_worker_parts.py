"""Worker processes: how many, what crosses the border, and what becomes of one that goes wrong."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncart.config import Settings
from asyncart.engine.listing import FROM_CACHE, KNOWN, NOWHERE, Listing
from asyncart.engine.scan import DirSource, FileSource, scan
from asyncart.engine.statcache import Stamp, StatCache
from asyncart.engine.tally import Tally
from asyncart.engine.tasks import Threads
from asyncart.engine.upload import WORKER_BYTES
from asyncart.errors import BY_CODE, Conflict, NotFound, TransferError
from asyncart.model import Chunk, Content, Entry, Extent
from asyncart.net.budget import Budget
from asyncart.workers import cargo, choice, process, wire
from asyncart.workers.crew import crew
from asyncart.workers.process import Worker, WorkerLost
from asyncart.workers.uploading import _Desk

MIB = 1 << 20


# --- how many, and how the work is cut


def settings(**changes: Any) -> Settings:
    return Settings(home="/h", **changes)


@pytest.mark.parametrize(
    ("changes", "files", "cores", "expected"),
    [
        ({}, 200_000, 2, 2),
        ({}, 199_999, 2, 0),
        ({}, 66_667, 4, 3),  # what 192 MiB are enough for
        ({}, 66_666, 4, 0),
        ({}, 1_000, 64, 0),  # a small log pays nothing
        ({}, 1_000_000, 1, 0),
        ({}, 1_000_000, 64, 3),
        ({"memory_bytes": 1 << 30}, 1_000_000, 64, choice.MAX_WORKERS),
        ({"memory_bytes": 64 << 20}, 1_000_000, 64, 0),
        ({"workers": 1}, 1_000_000, 64, 0),
        ({"workers": 3}, 10, 1, 3),
        ({"workers": 3}, 2, 8, 2),
        ({"workers": 3}, 0, 8, 0),
        ({"workers": -1}, 1_000_000, 8, 0),
        ({"workers": 3, "objects": "memory://x"}, 100, 8, 0),
        ({"workers": 3, "limit_rate_bytes": 1}, 100, 8, 0),
    ],
)
def test_how_many_workers(changes: dict[str, Any], files: int, cores: int, expected: int) -> None:
    chosen = settings(**changes)
    count = choice.worker_count(
        chosen, files, cores=cores, memory_bytes=chosen.memory_bytes, can_start=True
    )
    assert count == expected


def test_without_an_interpreter_there_are_no_workers() -> None:
    chosen = settings(workers=4)
    count = choice.worker_count(
        chosen, 100, cores=4, memory_bytes=chosen.memory_bytes, can_start=False
    )
    assert count == 0


@pytest.mark.parametrize("executable", ["/usr/bin/uwsgi", "/opt/app/myapp.exe", "", None])
def test_only_python_is_started(monkeypatch: pytest.MonkeyPatch, executable: str | None) -> None:
    assert process.can_start()
    monkeypatch.setattr(sys, "executable", executable)
    assert not process.can_start()


def test_a_frozen_application_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not process.can_start()


@pytest.mark.parametrize("workers", [2, 3])
def test_every_worker_can_hold_what_one_lane_of_the_engine_leases(workers: int) -> None:
    memory_bytes = settings().memory_bytes
    shared = choice.shared_bytes(memory_bytes)
    assert workers * (shared // workers) < memory_bytes
    assert shared // workers >= WORKER_BYTES


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_units_hold_every_row_once_in_path_order_after_the_large_ones(count: int) -> None:
    large = {3: 9 * MIB, 5: 30 * MIB}
    sizes = [large.get(row, row % 50_000) for row in range(count)]
    rows = [row for row in range(count) if row % 10 != 1]
    units = choice.units(sizes, rows, 2)
    here = [row for row in (5, 3) if row in rows]
    assert units[: len(here)] == [[row] for row in here]
    assert [row for unit in units[len(here) :] for row in unit] == [
        row for row in rows if row not in large
    ]
    assert all(units)


def test_units_are_even_and_bounded() -> None:
    units = choice.units([10_000] * 100_000, range(100_000), 2)
    assert [len(unit) for unit in units] == [12_500] * 8
    units = choice.units([10_000] * 1_000_000, range(1_000_000), 2)
    assert max(len(unit) for unit in units) == choice.UNIT_FILES
    units = choice.units([7 * MIB] * 1000, range(1000), 2)
    assert max(len(unit) for unit in units) * 7 * MIB <= choice.UNIT_BYTES + 7 * MIB


def entry(n: int, object_id: str) -> Entry:
    return Entry(f"{n:09d}", bytes(32), 1, (Extent(object_id, n, 1),))


@pytest.mark.parametrize("count", [0, 1, 4096, 6144, 6145, 20_000])
def test_steps_hold_every_entry_once(count: int) -> None:
    entries = [entry(n, str(n // 1000)) for n in range(count)]
    steps = list(choice.steps(entries))
    assert [each for step in steps for each in step] == entries
    assert all(0 < len(step) <= 2 * choice.STEP_FILES for step in steps)


def test_steps_end_where_packs_end() -> None:
    """So a pack is read by one worker; a pack that is too large is cut."""
    entries = [entry(n, str(n // 3000)) for n in range(30_000)]
    assert {len(step) % 3000 for step in choice.steps(entries)} == {0}
    one = [entry(n, "same") for n in range(30_000)]
    assert max(len(step) for step in choice.steps(one)) == 2 * choice.STEP_FILES


# --- rows there and back


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    tree = tmp_path / "tree"
    for i in range(12):
        path = tree / f"d{i % 3}" / f"f{i:02d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * i)
    (tree / "d1" / "f04").chmod(0o755)
    (tmp_path / "other").write_bytes(b"other")
    cache = StatCache(str(tmp_path / "cache.sqlite"))
    sources = [DirSource("", str(tree)), FileSource("d1/renamed", str(tmp_path / "other"))]
    found = scan(sources, cache)
    cache.close()
    found.begin_placement()
    return found


ROWS = [[*range(13)], [*range(3, 9)], [0, 2, 3, 7, 12], [5]]


@pytest.mark.parametrize("rows", ROWS)
def test_a_worker_sees_the_same_files(listing: Listing, rows: list[int]) -> None:
    sent = wire.decode_to_worker(wire.encode(cargo.packed_files(listing, rows))[4:])
    assert isinstance(sent, wire.Files)
    there = cargo.listing_of(sent)
    assert len(there) == len(rows)
    for i, row in enumerate(rows):
        assert there.local_path(i) == listing.local_path(row)
        assert there.stamp(i) == listing.stamp(row)
        assert there.flags[i] == listing.flags[row]


@pytest.mark.parametrize("rows", ROWS)
def test_results_come_back_to_their_rows_and_to_no_others(
    listing: Listing, rows: list[int]
) -> None:
    files = cargo.packed_files(listing, rows)
    there = cargo.listing_of(files)
    there.begin_placement()
    for i in range(len(there)):
        there.set_digest(i, bytes([i + 1]) * 32)
        there.place(i, "ab"[i % 2], 100 * i)
    there.restamp(0, Stamp(1, 2, 3, 4))
    large = Content(bytes([1]) * 32, 2, (Extent("c", 0, 1), Extent("d", 0, 1)), (Chunk(b"1", 2),))
    there.place_content(0, large)
    result = wire.decode_from_worker(wire.encode(cargo.packed_results(there, files))[4:])
    assert isinstance(result, wire.Stored)
    listing.place(rows[-1], "z", 0)  # indexes of objects differ from the worker's
    before = {row: (listing.stamp(row), listing.flags[row]) for row in range(len(listing))}

    cargo.merge_results(listing, rows, result)

    for i, row in enumerate(rows):
        assert listing.digest(row) == bytes([i + 1]) * 32
        assert listing.flags[row] == (before[row][1] | KNOWN) & ~FROM_CACHE
        if i:
            assert listing.object_ids[listing.object_of[row]] == "ab"[i % 2]
            assert listing.offsets[row] == 100 * i
            assert listing.stamp(row) == before[row][0]
    assert listing.contents == {rows[0]: large}
    assert listing.stamp(rows[0]) == Stamp(1, 2, 3, 4)
    for row in set(range(len(listing))) - set(rows):
        assert (listing.stamp(row), listing.flags[row]) == before[row]
        assert listing.digest(row) == bytes(32)
        assert listing.object_of[row] == NOWHERE


def test_promised_content_stays_unplaced(listing: Listing) -> None:
    stored = wire.Stored(
        b"d" * 64,
        array("i", [0, 1]).tobytes(),
        array("q", [5, 0]).tobytes(),
        ["real", cargo.PROMISED],
        {},
        {},
    )
    cargo.merge_results(listing, [3, 4], stored)
    assert listing.object_ids[listing.object_of[3]] == "real"
    assert listing.object_of[4] == NOWHERE
    extents = [extent for content in listing.contents.values() for extent in content.extents]
    assert cargo.PROMISED not in {*listing.object_ids, *(each.object_id for each in extents)}


# --- errors and frames


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_errors_cross_as_their_class(code: str) -> None:
    error = BY_CODE[code]("train.csv: broke")
    again = wire.error_of(wire.failure_of(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_several_failures_cross_together() -> None:
    error = TransferError("2 errors", [NotFound("a is gone"), Conflict("b changed")])
    again = wire.error_of(wire.failure_of(error))
    assert isinstance(again, TransferError)
    assert [(type(each), str(each)) for each in again.failures] == [
        (NotFound, "a is gone"),
        (Conflict, "b changed"),
    ]


def test_a_defect_crosses_with_its_traceback() -> None:
    try:
        [][1]
    except IndexError as error:
        again = wire.error_of(wire.failure_of(error))
    assert isinstance(again, RuntimeError)
    assert "IndexError" in str(again)
    assert __file__ in str(again)


def test_a_stream_that_ends_in_a_frame_is_at_its_end() -> None:
    frame = wire.encode(wire.Fetch("/root", "/cache"))
    whole = io.BytesIO(frame)
    body = wire.read_frame(whole)
    assert body is not None
    assert wire.decode_to_worker(body) == wire.Fetch("/root", "/cache")
    for length in range(len(frame)):
        assert wire.read_frame(io.BytesIO(frame[:length])) is None


# --- the same content in several workers


class FakeIndex:
    """An index that has `stored`, and remembers what it was asked."""

    def __init__(self, stored: dict[bytes, Content]) -> None:
        self.stored = stored
        self.asked: list[bytes] = []

    async def stored_contents(self, digests: list[bytes]) -> dict[bytes, Content]:
        self.asked += digests
        return {digest: self.stored[digest] for digest in digests if digest in self.stored}

    async def add_stored(self, objects: object, contents: list[Content]) -> None:
        self.stored.update((content.digest, content) for content in contents)


class Alive:
    is_lost = False


def content(name: str) -> Content:
    return Content(name.encode(), 1, (Extent("o", 0, 1),))


async def test_the_first_to_ask_stores_and_the_others_are_promised_it() -> None:
    index = FakeIndex({b"old": content("old")})
    claims: dict[bytes, Any] = {}
    workers: list[Any] = [Alive(), Alive()]
    first, second = (_Desk(index, claims, worker) for worker in workers)  # type: ignore[arg-type]

    assert await first.answer("stored_contents", ([b"old", b"new"],)) == {b"old": content("old")}
    promised = await second.answer("stored_contents", ([b"old", b"new"],))
    assert isinstance(promised, dict)
    assert promised[b"old"] == content("old")
    assert [extent.object_id for extent in promised[b"new"].extents] == [cargo.PROMISED]
    assert await first.answer("stored_contents", ([b"new"],)) == {}  # again: it is its own

    await first.answer("add_stored", ([], [content("new")]))
    assert await second.answer("stored_contents", ([b"new"],)) == {b"new": content("new")}
    assert claims == {}


async def test_the_claims_of_a_lost_worker_are_void() -> None:
    index = FakeIndex({})
    claims: dict[bytes, Any] = {}
    lost, other = Alive(), Alive()
    await _Desk(index, claims, lost).answer("stored_contents", ([b"x"],))  # type: ignore[arg-type]
    lost.is_lost = True
    assert await _Desk(index, claims, other).answer("stored_contents", ([b"x"],)) == {}  # type: ignore[arg-type]


# --- one process


def opening(folder: Path) -> wire.Open:
    return wire.Open(str(folder / "store"), str(folder / "cache"), 0, 64 * MIB, 2)


class NoDesk:
    async def answer(self, verb: str, arguments: tuple[Any, ...]) -> object:
        raise AssertionError(verb)

    def take_news(self, news: object) -> None:
        pass


@asynccontextmanager
async def worker(folder: Path) -> AsyncIterator[Worker]:
    started = Worker(opening(folder))
    try:
        yield started
    finally:
        await started.close()


def is_gone(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def fetch_nothing(worker: Worker, folder: Path) -> object:
    order = wire.Fetch(str(folder / "out"), str(folder / "statcache"))
    worker.send(wire.End())
    return await worker.work(order, NoDesk(), Tally())


async def test_a_worker_works_and_is_reaped(tmp_path: Path) -> None:
    async with worker(tmp_path) as started:
        assert await fetch_nothing(started, tmp_path) == wire.Fetched()
        pid = started.pid
        assert not is_gone(pid)
    assert is_gone(pid)  # a zombie would still answer


async def test_it_does_not_mind_ctrl_c(tmp_path: Path) -> None:
    async with worker(tmp_path) as started:
        await fetch_nothing(started, tmp_path)
        assert started.pid is not None
        os.kill(started.pid, signal.SIGINT)
        assert await fetch_nothing(started, tmp_path) == wire.Fetched()


async def test_a_stopped_worker_is_killed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LEAVE_S", 0.1)
    async with worker(tmp_path) as started:
        await fetch_nothing(started, tmp_path)
        assert started.pid is not None
        os.kill(started.pid, signal.SIGSTOP)
        before = time.monotonic()
    assert is_gone(started.pid)
    assert time.monotonic() - before < 2


async def test_a_silent_worker_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SILENCE_S", 0.3)
    monkeypatch.setattr(process, "LEAVE_S", 0.1)
    async with worker(tmp_path) as started:
        await fetch_nothing(started, tmp_path)
        assert started.pid is not None
        os.kill(started.pid, signal.SIGSTOP)
        with pytest.raises(WorkerLost, match="no sign of life"):
            await fetch_nothing(started, tmp_path)
        assert started.is_lost
    assert is_gone(started.pid)


def program(text: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, "-S", "-c", text]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise SystemExit(3)", "ended with 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("print('hello')", "ended with 0"),
        (
            "import os, time; os.write(1, bytes([1, 0, 0, 0, 9])); time.sleep(60)",
            "killed by signal 9",
        ),
        ("import os; os.close(1); os.close(0)", "ended with"),
        ("import time; time.sleep(60)", "no sign of life"),
    ],
)
async def test_what_never_gets_ready_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    monkeypatch.setattr(process, "START_S", 1.0)
    monkeypatch.setattr(process, "LEAVE_S", 0.1)
    monkeypatch.setattr(process, "command", program(text))
    async with worker(tmp_path) as started:
        with pytest.raises(WorkerLost, match=why):
            await fetch_nothing(started, tmp_path)
    assert is_gone(started.pid)


async def test_what_cannot_be_started_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "command", lambda: [str(tmp_path / "python-that-is-not-there")])
    async with worker(tmp_path) as started:
        with pytest.raises(WorkerLost, match="did not start"):
            await fetch_nothing(started, tmp_path)


async def test_a_lost_worker_takes_its_counts_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its unit is done again, and must not be counted twice."""
    frames = wire.encode(wire.Ready()) + wire.encode(wire.Progressed(7, 70, 30, 40))
    text = f"import os; os.write(1, {frames!r})"
    monkeypatch.setattr(process, "command", program(text))
    tally = Tally()
    tally.add(1, 2, 3, 4)
    async with worker(tmp_path) as started:
        with pytest.raises(WorkerLost):
            await started.work(wire.Fetch("", ""), NoDesk(), tally)
    assert (tally.files, tally.bytes, tally.bytes_deduplicated, tally.bytes_moved) == (1, 2, 3, 4)


# --- the crew and its memory


async def test_the_memory_of_a_crew_is_leased_until_it_is_dismissed(tmp_path: Path) -> None:
    budget = Budget(256 * MIB)
    where = settings(objects=str(tmp_path / "store"))
    async with crew(2, where, budget, Threads(4)) as members:
        assert len(members.workers) == 2
        assert budget.used_bytes == 224 * MIB
        async with crew(2, where, budget, Threads(4)) as others:
            assert others.workers == []  # the memory is gone: no second crew, and no waiting for it
        hired = list(members.workers)
        for each in hired:
            await fetch_nothing(each, tmp_path)
        members.dismiss()
        assert members.workers == []
        assert budget.used_bytes == 0
    assert [is_gone(each.pid) for each in hired] == [True, True]


async def test_an_error_in_the_block_leaves_no_worker_and_no_lease(tmp_path: Path) -> None:
    budget = Budget(256 * MIB)
    where = settings(objects=str(tmp_path / "store"))
    pids = []

    async def fail() -> None:
        async with crew(2, where, budget, Threads(4)) as members:
            await fetch_nothing(members.workers[0], tmp_path)
            pids.append(members.workers[0].pid)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert is_gone(pids[0])
    assert budget.used_bytes == 0
