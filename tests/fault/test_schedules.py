"""The collector and compaction beside writers, a deleter and a reader, in every order that matters.

Nothing that a version reaches is lost, nobody fails who did nothing wrong, and what nothing reaches is
gone after two collections.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from material import content, read_tree
from turns import Schedule, Turns, gated, interrupted, shuffled
from workplace import KIB, Place, numbered

from asyncart.aio.collect import collect
from asyncart.engine import compact

Tree = dict[str, bytes]
LARGE = content("large", 60 * KIB)


TREES = {
    "whole": numbered(range(100), LARGE),
    "few": numbered(range(3), LARGE[: 12 * KIB] + b"x"),
    "some": numbered(range(1, 5)),
    # what the writers bring: part of it lies in what is being deleted, collected and compacted
    "one": numbered(range(2, 7), LARGE[: 20 * KIB] + b"y"),
    "two": numbered(range(40, 44)) | {"own": content("own", 900)},
}


@pytest.fixture
async def template(local_place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Place]:
    """Copies of a place with three versions, of which one fills the objects that all use a little of."""
    monkeypatch.setattr(compact, "LEAST_GAIN_BYTES", 1 * KIB)
    monkeypatch.setenv("ASYNCART_THREADS", "2")
    place = local_place
    async with place.init() as run:
        for name in ("whole", "few", "some"):
            await run.log_artifact(place.artifact(TREES[name], name))
    place.execute("UPDATE sessions SET expires_at = 0")
    made = 0

    def copy() -> Place:
        nonlocal made
        made += 1
        return place.copied_to(place.folder / f"copy{made}")

    return copy


class Scene:
    """Everybody in one place: each method is an actor."""

    def __init__(self, place: Place, schedule: Schedule) -> None:
        self.place = place
        live = place.query(
            "SELECT name FROM versions JOIN collections ON collection_id = collections.id"
            " WHERE versions.deleted_at IS NULL"
        )
        self.live = {str(name) for (name,) in live}
        self.turns = Turns(schedule)

    async def play(self, names: list[str]) -> list[tuple[str, str]]:
        place = self.place
        async with place.init() as run:
            self.run = run
            workspace = await gated(place.workspace(), self.turns)
            self.read_before = await run.use_artifact("few:v0")
            actors: dict[str, Callable[[], Awaitable[object]]] = {
                name: getattr(self, name) for name in names
            }
            await self.turns.run(actors)
            await self.check()
            assert workspace is place.workspace()
        shutil.rmtree(place.folder)
        return self.turns.steps

    async def writer_one(self) -> None:
        await self.run.log_artifact(self.place.artifact(TREES["one"], "one"))
        self.live.add("one")

    async def writer_two(self) -> None:
        await self.run.log_artifact(self.place.artifact(TREES["two"], "two"))
        self.live.add("two")

    async def deleter(self) -> None:
        for name in sorted(self.live & {"whole", "some"}, reverse=True):
            await (await self.run.use_artifact(f"{name}:v0")).delete()
            self.live.remove(name)

    async def collector(self) -> None:
        for _ in range(2):
            await collect(self.place.workspace())

    async def other_collector(self) -> None:
        await collect(self.place.workspace())

    async def reader(self) -> None:
        """By the manifest that it saw at the beginning."""
        target = self.place.fresh("target")
        await self.read_before.download(target)
        assert read_tree(target) == TREES["few"]

    async def check(self) -> None:
        place, run = self.place, self.run
        for name in sorted(self.live):
            artifact = await run.use_artifact(f"{name}:latest")
            target = place.fresh("target")
            await artifact.download(target)
            assert read_tree(target) == TREES[name]
            assert (await artifact.verify()).is_ok
        for table in ("objects", "versions"):
            damaged = place.query(f"SELECT * FROM {table} WHERE is_damaged")
            assert not damaged
        place.execute("UPDATE sessions SET expires_at = 0")
        await collect(place.workspace())
        await place.check_collected()  # two cycles: what compaction emptied is gone with the second
        loose = place.query("SELECT count(*) FROM objects WHERE loosened_by IS NOT NULL")
        assert loose == [(0,)]


EVERYBODY = ["writer_one", "writer_two", "deleter", "collector", "reader"]


def some_steps(count: int, wanted: int) -> list[int]:
    """About so many of the steps, with the first and the last ones."""
    return sorted({round(at * count / wanted) for at in range(wanted + 1)})


@pytest.mark.parametrize("seed", range(10))
async def test_any_order(template: Any, seed: int) -> None:
    """All five at once, in an order that nobody chose."""
    scene = Scene(template(), shuffled(seed))
    steps = await scene.play(EVERYBODY)
    assert {name for name, _ in steps} == set(EVERYBODY)


async def deleted(place: Place) -> Place:
    """The same with its garbage condemned and gone, so that the next collection compacts at once."""
    async with place.init() as run:
        await (await run.use_artifact("whole:v0")).delete()
        await collect(place.workspace(), compact=False)
    place.execute("UPDATE sessions SET expires_at = 0")
    return place


@pytest.mark.parametrize(
    "others", [["writer_one", "deleter"], ["other_collector", "writer_two"]], ids="-".join
)
async def test_compaction_interrupted_at_any_step(template: Any, others: list[str]) -> None:
    """Others do all that they do between two of its steps."""
    names = ["collector", *others]
    alone = await Scene(await deleted(template()), interrupted("collector", 1000)).play(
        ["collector"]
    )
    verbs = [verb for _, verb in alone]
    assert "compact" in verbs
    for at in some_steps(len(verbs), 24):
        steps = await Scene(await deleted(template()), interrupted("collector", at)).play(names)
        assert steps[at][0] in others  # who comes between


async def test_a_reader_interrupted_at_any_step(template: Any) -> None:
    """Everything that it has read about is moved and deleted between two of its steps."""
    at, is_over = 0, False
    while not is_over:
        scene = Scene(await deleted(template()), interrupted("reader", at))
        steps = await scene.play(["reader", "collector"])
        is_over = [name for name, _ in steps].index("collector") < at
        is_over = is_over or sum(name == "reader" for name, _ in steps) <= at
        at += 1
    assert at > 3


async def test_a_writer_interrupted_at_any_step(template: Any) -> None:
    """What it was told to be stored is deleted, collected and moved between two of its steps."""
    alone = await Scene(await deleted(template()), interrupted("writer_one", 1000)).play(
        ["writer_one"]
    )
    for at in some_steps(len(alone), 16):
        await Scene(await deleted(template()), interrupted("writer_one", at)).play(
            ["writer_one", "collector"]
        )
