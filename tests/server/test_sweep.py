"""What lost writers left behind is swept up, by one replica at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping

import anyio
import pytest

from asyncart.catalog import open_catalog
from asyncart.catalog.sql import SqlCatalog
from asyncart.errors import Unavailable
from asyncart.server.sweep import TURN, sweep, sweep_regularly, take_turn

HOUR_S = 3600.0


@pytest.fixture(params=["sqlite", "postgres"])
async def catalog(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[SqlCatalog]:
    url = (
        request.getfixturevalue("postgres_url")
        if request.param == "postgres"
        else str(tmp_path / "catalog.sqlite")
    )
    opened = await open_catalog(url)
    assert isinstance(opened, SqlCatalog)
    yield opened
    await opened.aclose()


async def test_of_many_who_ask_at_once_one_gets_the_turn(catalog: SqlCatalog) -> None:
    got: list[bool] = []

    async def ask() -> None:
        got.append(await catalog.database.write_alone(take_turn, HOUR_S))

    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(ask)
    assert Counter(got) == {True: 1, False: 11}


async def test_the_next_turn_comes_when_the_last_one_is_old_enough(catalog: SqlCatalog) -> None:
    assert await catalog.database.write_alone(take_turn, HOUR_S)
    assert not await catalog.database.write_alone(take_turn, HOUR_S)
    assert await catalog.database.write_alone(take_turn, 0.0)


async def test_a_clock_that_was_set_back_stops_nobody(catalog: SqlCatalog) -> None:
    await catalog.set_fact(TURN, "1e18")
    assert await catalog.database.write_alone(take_turn, HOUR_S)


async def test_work_that_fails_keeps_no_other_from_being_done() -> None:
    done = []

    async def fails() -> Mapping[str, object]:
        raise Unavailable("the store is down")

    async def works() -> Mapping[str, object]:
        done.append("works")
        return {}

    await sweep({"first": fails, "second": works})
    assert done == ["works"]


async def test_it_goes_on_after_an_error(tmp_path) -> None:
    """A catalog that is down for a while, or a mistake of ours, ends no server."""
    turns = 0
    enough = anyio.Event()

    class Database:
        async def write_alone(self, *args: object) -> bool:
            nonlocal turns
            turns += 1
            if turns == 1:
                raise Unavailable("down")
            if turns == 2:
                raise ZeroDivisionError
            enough.set()
            return False

    async with anyio.create_task_group() as group:
        group.start_soon(sweep_regularly, Database(), {}, 0.001)
        with anyio.fail_after(10):
            await enough.wait()
        group.cancel_scope.cancel()
