"""Is this process alive, and should requests come here?

`/healthz` says yes as long as the event loop turns: whoever restarts dead processes asks that, and
nothing else may make it say no, or a database that is down would have all replicas killed. `/readyz`
says whether this replica can work now: the catalog answers and has the schema that we know (somebody may
upgrade it while we run), the store answers, and we are not about to leave. Each question is bounded in
time, and answers are kept for a second, so that asking often costs nothing.

Being slow is not being down: under load our question waits in the same queue as everybody's, and a replica
that left for that would only push its load onto the others, until none is left. So silence counts as no
only when there has been no answer for `SLOW_S`; an error counts at once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable

import anyio
import msgspec

from ..catalog import schema
from ..catalog.transactions import Database
from ..errors import Unavailable
from ..stores.protocol import Store
from . import logs
from .drain import Drain

PATIENCE_S = 1.5  # for the catalog, and for the store: less than whoever asks us has, mostly 2 s
SLOW_S = 30.0
KEEP_S = 1.0
PROBE_KEY = "objects/00/000000000000readyz"  # no object has such an id: asking for it is a cheap no


class Health(msgspec.Struct, frozen=True):
    """`problems` is for people: what does not work, without details that strangers need not know."""

    is_ready: bool
    problems: list[str] = []


class Readiness:
    def __init__(self, database: Database, store: Store, drain: Drain) -> None:
        self._database = database
        self._store = store
        self._drain = drain
        self._known: tuple[str, ...] = ()
        self._known_until = 0.0
        self._asking = anyio.Lock()
        self._answered_at: dict[str, float] = {}

    async def look(self) -> Health:
        if self._drain.is_draining:
            return Health(False, ["draining: this replica is about to end"])
        async with self._asking:
            if time.monotonic() >= self._known_until:
                self._known = await self._problems()
                self._known_until = time.monotonic() + KEEP_S
        return Health(not self._known, list(self._known))

    async def _problems(self) -> tuple[str, ...]:
        found: dict[str, str] = {}

        async def ask(what: str, question: Callable[[], Awaitable[None]]) -> None:
            if problem := await self._problem(what, question):
                found[what] = problem

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "catalog", self._ask_catalog)
            group.start_soon(ask, "store", self._ask_store)
        return tuple(found[what] for what in sorted(found))

    async def _problem(self, what: str, question: Callable[[], Awaitable[None]]) -> str:
        why = f"no answer within {PATIENCE_S:g} s"
        with anyio.move_on_after(PATIENCE_S) as limit:
            try:
                await question()
                self._answered_at[what] = time.monotonic()
                return ""
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
        if limit.cancelled_caught and self._answered_lately(what):
            return ""
        logs.event(f"not ready: {what}: {why}", level=logging.WARNING)
        return f"{what}: does not answer, or not as it should; the log says more"

    def _answered_lately(self, what: str) -> bool:
        last = self._answered_at.get(what)
        return last is not None and time.monotonic() - last < SLOW_S

    async def _ask_catalog(self) -> None:
        revision = await self._database.read(schema.revision)
        if revision != schema.REVISIONS[-1]:
            raise Unavailable(
                f"the schema is {revision}, this replica knows {schema.REVISIONS[-1]}"
            )

    async def _ask_store(self) -> None:
        path = self._store.local_path(PROBE_KEY) if self._store.is_local else None
        if path is None:
            await self._store.sizes([PROBE_KEY])
        elif not os.access(_existing(path), os.W_OK | os.X_OK):
            raise Unavailable("the folder of the store cannot be written")


def _existing(path: str) -> str:
    """The nearest folder above that is there: a store that is new has none of its own yet."""
    while not os.path.isdir(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path
