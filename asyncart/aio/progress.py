"""Turn the engine's tallies into progress events, ten a second at most, off the event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from ..engine.tally import Tally
from ..engine.tasks import Threads, task_group
from ..model import Progress

ProgressCallback = Callable[[Progress], None]
INTERVAL_S = 0.1


class Reporter:
    """What an operation is doing; `event` is read whenever a report is due."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.tally = Tally()
        self.files_total: int | None = None
        self.bytes_total: int | None = None

    def event(self) -> Progress:
        tally = self.tally
        return Progress(
            self.stage,
            tally.files,
            self.files_total,
            tally.bytes,
            self.bytes_total,
            tally.bytes_deduplicated,
            tally.bytes_moved,
        )


@asynccontextmanager
async def reporting(
    callback: ProgressCallback | None, stage: str, threads: Threads
) -> AsyncIterator[Reporter]:
    """Report to the callback while the block runs, and once more at its end."""
    reporter = Reporter(stage)
    if callback is None:
        yield reporter
        return
    async with task_group() as group:
        group.start_soon(_report, callback, reporter, threads)
        yield reporter
        group.cancel_scope.cancel()
    await threads.run(callback, reporter.event())


async def _report(callback: ProgressCallback, reporter: Reporter, threads: Threads) -> None:
    last = None
    while True:
        await anyio.sleep(INTERVAL_S)
        event = reporter.event()
        if event != last:
            await threads.run(callback, event)
            last = event
