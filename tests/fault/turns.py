"""One actor at a time: who takes the next step is decided here, not by the event loop.

A step is a call of the catalog or of the store, from its beginning to its end. Every actor stops before
each of its steps until it is its turn; between two steps it touches nothing that others see. So a schedule
is a list of names, and the same schedule does the same things in the same order.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from asyncart.aio.workspace import Workspace
from asyncart.engine.tasks import task_group

ACTOR: ContextVar[str | None] = ContextVar("actor", default=None)
PATIENCE_S = 30.0  # a hang is a failure that says so

Schedule = Callable[[list[str]], str]  # who of these takes the next step


class Turns:
    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._is_busy = False
        self._changed = asyncio.Event()
        self.steps: list[tuple[str, str]] = []  # what was done: actor, verb

    def gate(self, inner: Any) -> Any:
        return _Gated(self, inner)

    async def run(self, actors: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        """Let them all come to their end. Raises what one of them raises."""
        self._waiting = {name: deque() for name in actors}
        async with task_group() as group:
            for name, act in actors.items():
                group.start_soon(self._act, name, act)
            await self._conduct()

    async def _act(self, name: str, act: Callable[[], Awaitable[object]]) -> None:
        ACTOR.set(name)  # its own tasks inherit it
        await act()
        del self._waiting[name]
        self._changed.set()

    async def _conduct(self) -> None:
        while self._waiting:
            if self._is_busy or not all(self._waiting.values()):
                self._changed.clear()
                async with asyncio.timeout(PATIENCE_S):
                    await self._changed.wait()
                await asyncio.sleep(0)
                continue
            self._is_busy = True
            self._waiting[self._schedule(list(self._waiting))].popleft().set_result(None)

    async def begin(self, verb: str) -> bool:
        """Wait for our turn. False for who is no actor: nobody has to wait for that."""
        actor = ACTOR.get()
        if actor is None or actor not in self._waiting:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[actor].append(turn)
        self._changed.set()
        try:
            await turn
        except BaseException:
            with suppress(KeyError, ValueError):
                self._waiting[actor].remove(turn)
            if turn.done() and not turn.cancelled():
                self.end()
            raise
        self.steps.append((actor, verb))
        return True

    def end(self) -> None:
        self._is_busy = False
        self._changed.set()


class _Gated:
    """A catalog or store whose coroutines are steps."""

    def __init__(self, turns: Turns, inner: Any) -> None:
        self._turns = turns
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def step(*args: Any, **kwargs: Any) -> Any:
            is_counted = await self._turns.begin(name)
            try:
                return await found(*args, **kwargs)
            finally:
                if is_counted:
                    self._turns.end()

        return step


async def gated(workspace: Workspace, turns: Turns) -> Workspace:
    """The workspace, whose catalog and store are called in turns from now on."""
    workspace._catalog = turns.gate(await workspace.catalog())
    workspace._store = turns.gate(await workspace.store())
    return workspace


# schedules


def interrupted(actor: str, at: int) -> Schedule:
    """The actor takes `at` steps, then all others, one after the other, then it goes on."""
    taken = 0

    def choose(playing: list[str]) -> str:
        nonlocal taken
        others = [name for name in playing if name != actor]
        if actor in playing and (taken < at or not others):
            taken += 1
            return actor
        return others[0]

    return choose


def shuffled(seed: int) -> Schedule:
    """Everybody has a rank, the highest goes first; now and then the one who goes falls back to the end.

    Few changes at random points find more than a fair coin at every step would.
    """
    chance = random.Random(seed)
    ranks: dict[str, float] = {}
    lows: Iterator[int] = iter(range(-1, -1000, -1))

    def choose(playing: list[str]) -> str:
        for name in playing:
            ranks.setdefault(name, chance.random())
        best = max(playing, key=ranks.__getitem__)
        if chance.random() < 0.08:
            ranks[best] = next(lows)
        return best

    return choose
