"""The worker processes of one transfer: started together, in the background, and gone together."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..engine.tasks import Threads
from ..net.budget import Budget, Lease
from . import choice, wire
from .process import Worker

logger = logging.getLogger("asyncart.workers")


class Crew:
    """`workers` is empty where the transfer does better without."""

    def __init__(self, workers: list[Worker], lease: Lease | None) -> None:
        self.workers = workers
        self._lease = lease

    def dismiss(self) -> None:
        """Their work is done: let them go, and take back the memory."""
        for worker in self.workers:
            worker.dismiss()
        if self._lease is not None:
            self._lease.release()


@asynccontextmanager
async def crew(
    count: int,
    *,
    store_url: str,
    budget: Budget,
    threads: Threads,
    limit_rate_bytes: int = 0,
) -> AsyncIterator[Crew]:
    """`count` workers that start while the block begins; at its end there is none of them left.

    Their memory is leased from this process's budget: a mapping that nobody touches costs nothing, and
    says that the bytes are taken. If other transfers have it, there are no workers: those transfers
    use the cores already.
    """
    shared = choice.shared_bytes(budget.limit_bytes)
    if count == 0 or budget.used_bytes + shared > budget.limit_bytes:
        yield Crew([], None)
        return
    opening = wire.Open(
        store_url=store_url,
        memory_bytes=shared // count,
        threads=choice.threads_each(threads.count, count),
        limit_rate_bytes=limit_rate_bytes // count,
    )
    lease = await budget.take(shared)
    workers: list[Worker] = []
    try:
        workers += [Worker(opening) for _ in range(count)]
        logger.debug("%d worker processes", count)
        yield Crew(workers, lease)
    finally:
        lease.release()
        for worker in workers:
            worker.dismiss()
        for worker in workers:
            await worker.close()
