"""Places for large bodies: few, for everybody, and never all of them for one."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from asyncart.server import bodies
from asyncart.server.bodies import LARGE_AT_ONCE, LARGE_BYTES, LARGE_OF_ONE, Bodies
from asyncart.server.limits import TooMany

BODY: Any = object()  # there is one; `_read` is ours
HEADERS = {"Content-Type": "application/json"}


class Senders:
    """Requests whose bodies come when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bodies = Bodies()
        self.come = anyio.Event()
        self.read = 0  # bodies that are, or were, being read
        monkeypatch.setattr(bodies, "_read", self._read)

    async def _read(self, http: web.Request, limit: int) -> bytes:
        self.read += 1
        await self.come.wait()
        return b"all of it"

    async def send(self, user_id: int, size: int = LARGE_BYTES + 1) -> None:
        headers = {**HEADERS, "Content-Length": str(size)}
        http = make_mocked_request("POST", "/", headers, payload=BODY)
        async with self.bodies.taken(http, 64 << 20, user_id) as body:
            assert body == b"all of it"


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> Senders:
    return Senders(monkeypatch)


async def test_nobody_takes_all_places(senders: Senders) -> None:
    """Others find one; whoever waits gets one when there is; and nobody is remembered afterwards."""
    async with anyio.create_task_group() as tasks:
        for _ in range(LARGE_AT_ONCE):
            tasks.start_soon(senders.send, 1)
        await anyio.wait_all_tasks_blocked()
        assert senders.read == LARGE_OF_ONE
        for user_id in range(2, 2 + LARGE_AT_ONCE - LARGE_OF_ONE):
            tasks.start_soon(senders.send, user_id)
        await anyio.wait_all_tasks_blocked()
        assert senders.read == LARGE_AT_ONCE
        tasks.start_soon(senders.send, 99)
        tasks.start_soon(partial(senders.send, 1, LARGE_BYTES))  # a small one needs no place
        await anyio.wait_all_tasks_blocked()
        assert senders.read == LARGE_AT_ONCE + 1
        senders.come.set()
    assert senders.read == LARGE_AT_ONCE + (LARGE_AT_ONCE - LARGE_OF_ONE) + 2
    assert senders.bodies._senders == {}


async def test_waiting_for_a_place_ends(senders: Senders, monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes none then."""
    async with anyio.create_task_group() as tasks:
        for _ in range(LARGE_OF_ONE):
            tasks.start_soon(senders.send, 1)
        await anyio.wait_all_tasks_blocked()
        with monkeypatch.context() as patched:
            patched.setattr(bodies, "TURN_S", 0.0)
            with pytest.raises(TooMany, match="too many large requests"):
                await senders.send(1)
        senders.come.set()
    await senders.send(1)
    assert senders.read == LARGE_OF_ONE + 1
