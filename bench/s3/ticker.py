"""Log a folder with `asyncart.aio`, a ticker beside it: `python -m bench.s3.ticker FOLDER ANSWER-FILE`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import asyncart.aio as asyncart

TICK_S = 0.001


async def main(folder: str) -> dict[str, float]:
    async with asyncart.init(project="bench") as run:
        # The first log of a process imports things and connects: a service has done that.
        warm = Path(folder).parent / "warm.txt"
        warm.write_text("warm", encoding="utf-8")
        await run.log_artifact(str(warm), "warm", "dataset")
        lags: list[float] = []
        async with asyncio.TaskGroup() as group:
            ticker = group.create_task(tick(lags))
            await asyncio.sleep(0.2)
            lags.clear()
            started = time.perf_counter()
            artifact = asyncart.Artifact("tree", "dataset")
            artifact.add_dir(folder)
            await run.log_artifact(artifact)
            wall_s = time.perf_counter() - started
            ticker.cancel()
    lags.sort()
    return {
        "wall_s": wall_s,
        "ticks": float(len(lags)),
        "lag_p50_s": lags[len(lags) // 2],
        "lag_p99_s": lags[len(lags) * 99 // 100],
        "lag_max_s": lags[-1],
    }


async def tick(lags: list[float]) -> None:
    while True:
        started = time.perf_counter()
        await asyncio.sleep(TICK_S)
        lags.append(time.perf_counter() - started - TICK_S)


if __name__ == "__main__":
    answer = asyncio.run(main(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")
