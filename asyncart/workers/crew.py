"""The worker processes of one transfer: started together, in the background, and gone together."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ..config import Settings
from ..engine.tasks import Threads, cleaned_up
from ..net.budget import Budget, Lease
from . import choice, wire
from .process import CANCEL_S, LEAVE_S, Worker

CLOSE_S = LEAVE_S + CANCEL_S + 1  # each takes at most the two, side by side

logger = logging.getLogger("asyncart.workers")


class Crew:
    """`workers` is empty where the transfer does better without, and once they are dismissed."""

    def __init__(self, hired: list[Worker], lease: Lease | None) -> None:
        self.workers = list(hired)
        self._hired = hired
        self._lease = lease

    def dismiss(self) -> None:
        """Their work is done, or failed: let them go, and take back the memory."""
        self.workers.clear()
        for worker in self._hired:
            worker.dismiss()
        if self._lease is not None:
            self._lease.release()

    async def close(self) -> None:
        """All gone, and reaped, on return; bounded."""
        async with anyio.create_task_group() as group:
            for worker in self._hired:
                group.start_soon(worker.close)


@asynccontextmanager
async def crew(
    count: int,
    settings: Settings,
    budget: Budget,
    threads: Threads,
    checksum: str | None = None,
    api_key: str = "",
) -> AsyncIterator[Crew]:
    """`count` workers that start while the block begins; at its end there is none of them left.

    `checksum` goes with what they send (see `stores.checksums`), `api_key` is for the server, if there is one.

    Their memory is leased from this process's budget: a mapping that nobody touches costs nothing, and
    says that the bytes are taken. If other transfers have it, there are no workers: those transfers
    use the cores already.
    """
    shared = choice.shared_bytes(budget.limit_bytes)
    if count == 0 or budget.used_bytes + shared > budget.limit_bytes:
        yield Crew([], None)
        return
    opening = wire.Open(
        store_url=settings.server or settings.objects_url,
        cache_dir=settings.cache_dir,
        cache_bytes=settings.cache_bytes,
        memory_bytes=shared // count,
        threads=choice.threads_each(threads.count, count),
        stall_timeout_s=settings.stall_timeout_s,
        limit_rate_bytes=-(-settings.limit_rate_bytes // count),
        checksum=checksum,
        api_key=api_key,
        allow_insecure_http=settings.allow_insecure_http,
    )
    lease = await budget.take(shared)
    members = Crew([Worker(opening) for _ in range(count)], lease)
    try:
        logger.debug("%d worker processes", count)
        yield members
    finally:
        members.dismiss()
        await cleaned_up(members.close, CLOSE_S)
