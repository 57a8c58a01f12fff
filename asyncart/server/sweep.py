"""Background work: what lost writers left behind, swept up by one replica at a time.

Which replica's turn it is is decided in the catalog, in a transaction of its own: whoever finds that the
last sweep is old enough writes down that it begins one now. A replica that dies in the middle of its
sweep costs one turn; the work itself may be broken off anywhere and done twice (the collector works in
steps that are each complete), so that nothing here needs a lock that somebody would have to release.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from sqlalchemy.engine import Connection

from ..catalog import clock, facts
from ..catalog.transactions import Database
from . import logs

TURN = "server.swept_at"  # the fact that tells when the last sweep began, by the database's clock

Work = Callable[[], Awaitable[Mapping[str, Any]]]  # what was done, for the log


async def sweep_regularly(database: Database, work: Mapping[str, Work], every_s: float) -> None:
    """Never returns; cancel it."""
    while True:
        # not all replicas at once, also when they were started together
        await anyio.sleep(every_s * random.uniform(0.25, 0.75))
        try:
            if await database.write_alone(take_turn, every_s):
                await sweep(work)
        except Exception as error:  # a mistake in here must not end the server
            logs.failure("no sweep this time", error)


async def sweep(work: Mapping[str, Work]) -> None:
    """Each kind of work by itself: one that fails keeps no other from being done."""
    for name, do in work.items():
        try:
            done = await do()
        except Exception as error:
            logs.failure(f"the sweep of {name} failed", error)
        else:
            logs.event(f"swept {name}", **done)


def take_turn(conn: Connection, every_s: float) -> bool:
    """Whether it is time, and nobody else's turn. In a transaction that excludes others."""
    now = clock.now(conn)
    last = facts.get_fact(conn, TURN)
    if last is not None and 0 <= now - float(last) < every_s:
        return False
    facts.set_fact(conn, TURN, repr(now))
    return True
