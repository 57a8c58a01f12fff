"""A service that logs to a bucket goes on serving: its event loop is not blocked.

The bound catches blocking calls, not slow machines: of three attempts the best one counts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from s3_environment import in_a_bucket  # noqa: F401

from asyncart import aio

TICK_S = 0.001
LONGEST_S = 0.25
ATTEMPTS = 3


class Ticker:
    """Wakes up every millisecond, and remembers the longest time that it did not."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.ticks = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            self.longest_s = max(self.longest_s, now - last)
            self.ticks += 1
            last = now


@asynccontextmanager
async def ticking() -> AsyncIterator[Ticker]:
    ticker = Ticker()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ticker.run())
        yield ticker
        task.cancel()


async def test_the_loop_of_the_caller_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a log of 64 MiB and 2,000 files, and during the download of both."""
    monkeypatch.setenv("ASYNCART_HOME", str(tmp_path / "home"))
    longest = []
    for attempt in range(ATTEMPTS):
        source = tmp_path / f"source{attempt}"
        (source / "many").mkdir(parents=True)
        (source / "large").write_bytes(os.urandom(64 << 20))
        for n in range(2000):
            (source / "many" / str(n)).write_bytes(os.urandom(2000))
        async with aio.init("p") as run, ticking() as ticker:
            artifact = await run.log_artifact(str(source), name="data", type="dataset")
            await artifact.download(tmp_path / f"target{attempt}")
        assert ticker.ticks > 20
        longest.append(ticker.longest_s)
        if ticker.longest_s < LONGEST_S:
            return
    pytest.fail(f"the loop stood still for {longest} s")
