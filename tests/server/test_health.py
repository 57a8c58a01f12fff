"""A replica is ready while it can work; being slow under load is no reason to leave."""

from __future__ import annotations

import anyio
import pytest

from asyncart.catalog import schema
from asyncart.errors import Unavailable
from asyncart.server import health
from asyncart.server.drain import Drain
from asyncart.server.health import Readiness
from asyncart.stores.memory import MemoryStore


class Database:
    """Answers as it is told to: with a revision, an error, or not at all."""

    def __init__(self) -> None:
        self.answer: str | Exception | None = schema.REVISIONS[-1]
        self.asked = 0

    async def read(self, work: object) -> str:
        self.asked += 1
        if self.answer is None:
            await anyio.sleep_forever()
        if isinstance(self.answer, Exception):
            raise self.answer
        assert self.answer is not None
        return self.answer


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setattr(health, "PATIENCE_S", 0.02)
    monkeypatch.setattr(health, "KEEP_S", 0.0)
    return Database()


@pytest.fixture
def drain() -> Drain:
    return Drain()


@pytest.fixture
def readiness(database: Database, drain: Drain) -> Readiness:
    return Readiness(database, MemoryStore("health"), drain)


async def test_silence_counts_when_it_lasts(
    database: Database, readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await readiness.look()).is_ready
    database.answer = None
    assert (await readiness.look()).is_ready  # slow, not down
    monkeypatch.setattr(health, "SLOW_S", 0.0)
    assert not (await readiness.look()).is_ready
    database.answer = schema.REVISIONS[-1]
    assert (await readiness.look()).is_ready


async def test_who_never_answered_is_not_slow(database: Database, readiness: Readiness) -> None:
    database.answer = None
    assert not (await readiness.look()).is_ready


@pytest.mark.parametrize("answer", [Unavailable("secret detail"), "9999", "0001"])
async def test_an_error_or_a_strange_schema_counts_at_once(
    answer: str | Exception, database: Database, readiness: Readiness
) -> None:
    assert (await readiness.look()).is_ready
    database.answer = answer
    found = await readiness.look()
    assert not found.is_ready
    assert [problem.partition(":")[0] for problem in found.problems] == ["catalog"]
    assert "secret" not in found.problems[0]


async def test_while_it_drains_it_says_no_and_asks_nobody(
    database: Database, readiness: Readiness, drain: Drain
) -> None:
    drain.request()
    assert not (await readiness.look()).is_ready
    assert database.asked == 0


async def test_asking_often_costs_one_question(
    database: Database, readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "KEEP_S", 60.0)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(readiness.look)
    assert database.asked == 1
