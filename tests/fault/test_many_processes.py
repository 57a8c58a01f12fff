"""Sixteen processes log into one collection at once."""

from __future__ import annotations

import queue
from pathlib import Path

import crashes
from material import content, read_tree
from workplace import KIB, Place

PROCESSES = 16
EACH = 4
SHARED = {"shared": content("shared", 3 * KIB)}


async def test_sixteen_processes_log_into_one_collection(local_place: Place) -> None:
    """Numbers are contiguous, equal contents are one version, `latest` is somebody's last, nothing is lost."""
    place = local_place
    context = crashes.processes()
    shared = place.source(SHARED)
    trees: dict[Path, dict[str, bytes]] = {shared: SHARED}
    plans = []
    for number in range(PROCESSES):
        own = []
        for turn in range(EACH):
            tree = {"common": content("common", 2 * KIB), "own": content((number, turn), 500)}
            path = place.source(tree)
            trees[path] = tree
            own.append(path)
        plans.append([*own[: number % EACH], shared, *own[number % EACH :]])
    start, results = context.Barrier(PROCESSES), context.Queue()
    running = [
        context.Process(
            target=crashes.log_several, args=(place.home, Path(place.url), plan, start, results)
        )
        for plan in plans
    ]
    for process in running:
        process.start()
    try:
        answers = [results.get(timeout=120) for _ in running]
    except queue.Empty:
        answers = []
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [0] * PROCESSES
    numbers = {int(version[1:]) for answer in answers for version, _ in answer}
    assert numbers == set(range(PROCESSES * EACH + 1))
    by_digest = {digest: version for answer in answers for version, digest in answer}
    assert len(by_digest) == PROCESSES * EACH + 1
    async with place.init() as run:
        place.check_store()
        latest = await run.use_artifact("data:latest")
        assert latest.version in {answer[-1][0] for answer in answers}
        contents = list(trees.values())
        for number in sorted(numbers):
            artifact = await run.use_artifact(f"data:v{number}")
            assert (await artifact.verify()).is_ok
            assert by_digest[artifact.digest] == f"v{number}"
            target = place.fresh("target")
            await artifact.download(target)
            contents.remove(read_tree(target))
        assert not contents
        await place.check_collected()
        assert (await latest.verify()).is_ok
