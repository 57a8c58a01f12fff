"""The state of a server that is about to end."""

from __future__ import annotations

import anyio
import pytest

from asyncart.server.drain import Drain

LONG_S = 60.0


async def test_asked_once_there_is_a_grace_period_and_asked_again_there_is_none() -> None:
    drain = Drain()
    assert not drain.is_draining
    drain.request()
    assert drain.is_draining
    with anyio.fail_after(5):
        await drain.requested()
    with anyio.move_on_after(0) as scope:
        await drain.grace(LONG_S)
    assert scope.cancelled_caught  # it would have waited
    drain.request()
    with anyio.fail_after(5):
        await drain.grace(LONG_S)


async def test_in_a_hurry_there_is_no_grace() -> None:
    drain = Drain()
    drain.request(hurry=True)
    with anyio.fail_after(5):
        await drain.requested()
        await drain.grace(LONG_S)


async def test_requests_in_flight_are_waited_for() -> None:
    drain = Drain()
    release = anyio.Event()
    begun = anyio.Event()

    async def answer() -> None:
        with drain.answering():
            begun.set()
            await release.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(answer)
        group.start_soon(answer)
        await begun.wait()
        assert drain.in_flight == 2
        assert not await drain.settled(0)
        release.set()
        with anyio.fail_after(5):
            assert await drain.settled(LONG_S)
    assert drain.in_flight == 0


async def test_a_request_that_fails_is_not_in_flight_any_more() -> None:
    drain = Drain()
    with pytest.raises(ValueError, match="odd"), drain.answering():
        raise ValueError("odd")
    assert await drain.settled(0)
