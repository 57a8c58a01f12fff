"""Many writers at once: threads, event loops and processes lose nothing and never meet a lock."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.lowlevel
import pytest
from catalog_kinds import BIKES, Writer, catalog, catalog_url, digest, run, sweep

from asyncart.catalog import open_catalog
from asyncart.model import RunState

__all__ = ["catalog", "catalog_url"]  # fixtures

# A fork of a process with threads: what Python 3.12 warns of is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

PROCESSES = 16
COMMITS = 3


async def log_some(url: str, name: str, commits: int, barrier=None) -> list[int]:
    """One writer in its own process or loop; returns the numbers that it was given."""
    catalog = await open_catalog(url)
    await catalog.create_run(run(name))
    if barrier is not None:
        barrier.wait()
    numbers = []
    for count in range(commits):
        writer = await Writer.begin(catalog)
        committed = await writer.log(f"{name} {count}", run_id=name, aliases=[name])
        assert committed.is_new
        numbers.append(committed.version.number)
        await catalog.resolve(BIKES, "latest")
        await writer.end()
    await catalog.finish_run(name, RunState.FINISHED)
    await catalog.aclose()
    return numbers


async def check(url: str, expected: dict[str, list[int]]) -> None:
    """Numbers are contiguous, everybody has what it was told, `latest` is one of the last."""
    catalog = await open_catalog(url)
    versions = await catalog.list_versions(BIKES)
    assert [v.number for v in reversed(versions)] == list(range(len(versions)))
    assert sorted(itertools.chain(*expected.values())) == list(range(len(versions)))
    by_number = {version.number: version for version in versions}
    for name, numbers in expected.items():
        digests = [digest(f"{name} {count}") for count in range(len(numbers))]
        assert [by_number[number].digest for number in numbers] == digests
        assert by_number[numbers[-1]].aliases[-1] == name or name in by_number[numbers[-1]].aliases
        assert [v.number for v in await catalog.run_outputs(name)] == numbers
    latest = await catalog.resolve(BIKES, "latest")
    assert latest.number in {numbers[-1] for numbers in expected.values()}
    await catalog.aclose()


def process(url: str, name: str, barrier, results) -> None:
    try:
        results.put((name, anyio.run(log_some, url, name, COMMITS, barrier)))
    except BaseException as error:
        results.put((name, repr(error)))
        raise


def test_sixteen_processes_log_into_one_new_collection(catalog_url):
    """All open the catalog at once while it is new; none fails, no number is missing or given twice."""
    if not catalog_url.startswith("sqlite"):
        anyio.run(make, catalog_url)  # the server's databases are made by somebody
    context = multiprocessing.get_context("fork")
    results, barrier = context.Queue(), context.Barrier(PROCESSES)
    names = [f"run-{number}" for number in range(PROCESSES)]
    processes = [
        context.Process(target=process, args=(catalog_url, name, barrier, results))
        for name in names
    ]
    for each in processes:
        each.start()
    told = dict(results.get(timeout=300) for _ in processes)
    for each in processes:
        each.join(60)
    assert [value for value in told.values() if isinstance(value, str)] == []
    assert [each.exitcode for each in processes] == [0] * PROCESSES
    results.close()
    anyio.run(check, catalog_url, told)


async def make(url: str) -> None:
    await (await open_catalog(url)).aclose()


def test_threads_with_event_loops_of_their_own(catalog_url):
    """Eight loops on one machine, each with its own catalog object."""
    names = [f"run-{number}" for number in range(8)]
    anyio.run(make, catalog_url)
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda name: anyio.run(log_some, catalog_url, name, 3), names))
    anyio.run(check, catalog_url, dict(zip(names, told, strict=True)))


def test_one_catalog_is_used_from_many_event_loops(tmp_path):
    """One object, opened in a loop that ended long ago, used from eight others at once."""
    catalog = anyio.run(open_catalog, str(tmp_path / "catalog.db"))
    start = threading.Barrier(8)

    async def log(name: str) -> int:
        start.wait()
        writer = await Writer.begin(catalog)
        return (await writer.log(name)).version.number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda name: anyio.run(log, name), "abcdefgh"))
    assert sorted(numbers) == list(range(8))
    anyio.run(catalog.aclose)


async def test_tasks_log_into_one_collection(catalog):
    """More tasks than there are threads or connections."""
    numbers = []

    async def log(text: str) -> None:
        writer = await Writer.begin(catalog)
        numbers.append((await writer.log(text)).version.number)

    async with anyio.create_task_group() as tasks:
        for count in range(40):
            tasks.start_soon(log, f"{count}")
    assert sorted(numbers) == list(range(40))


async def test_the_same_content_logged_at_once_is_one_version(catalog):
    """Ten writers, one content: one of them made the version, all get it."""
    answers = []

    async def log() -> None:
        writer = await Writer.begin(catalog)
        answers.append(await writer.log("same"))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(log)
    assert {answer.version.number for answer in answers} == {0}
    assert sum(answer.is_new for answer in answers) == 1


async def test_the_same_draft_sent_twice_at_once_is_one_version(catalog):
    writer = await Writer.begin(catalog)
    draft = await writer.draft("a")
    answers = []

    async def commit() -> None:
        answers.append(await catalog.commit_version(writer.session_id, draft))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(commit)
    assert len({answer.version.id for answer in answers}) == 1
    assert all(answer.is_new for answer in answers)


async def test_writers_deleters_and_the_collector_at_once(catalog):
    """What a living version names is never deleted, whoever runs beside whom."""
    deleted: set[str] = set()

    async def log(name: str) -> None:
        for count in range(6):
            writer = await Writer.begin(catalog)
            found = await writer.stored(f"shared {count}")
            objects = [extent.object_id for each in found.values() for extent in each.extents]
            objects = objects or [await writer.store(f"shared {count}")]
            version = (await writer.log(f"shared {count}", name, objects=objects)).version
            await writer.end()
            if count % 2:
                await catalog.delete_version(version.id)

    async def collect() -> None:
        while True:
            deleted.update(await sweep(catalog))
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect)
        async with anyio.create_task_group() as writers:
            for name in "abcd":
                writers.start_soon(log, name)
        tasks.cancel_scope.cancel()
    for _ in range(3):
        deleted |= await sweep(catalog)
    writer = await Writer.begin(catalog)
    living = await catalog.list_versions(BIKES)
    assert len(living) == 12
    assert deleted.isdisjoint({version.manifest.object_id for version in living})
    found = await writer.stored(*(f"shared {count}" for count in (0, 2, 4)))
    assert len(found) == 3
    assert deleted.isdisjoint({each.extents[0].object_id for each in found.values()})
