"""What a warm client pays: `python -m bench.server.warm REQUEST-JSON ANSWER-FILE`.

One process that has logged before logs small artifacts, and downloads one that it has already. Each call is
timed, and the requests that the server answered meanwhile are counted by the server itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import anyio

import asyncart.aio as asyncart
from asyncart import config
from asyncart.aio.workspace import Workspace
from bench.replicas import requests_of

FILES, FILE_BYTES = 8, 4096  # 32 KB
ROUNDS = 15


class Warm:
    def __init__(self, request: dict[str, Any]) -> None:
        self._urls: list[str] = request["replicas"]
        self._folder = Path(request["folder"])
        self._digests: int = request["digests"]

    async def run(self) -> dict[str, float]:
        async with asyncart.init(project="warm") as run:
            for warm in range(2):
                await self._log(run, f"first{warm}")
            logs = [
                await self._counted(partial(self._log, run, f"again{i}")) for i in range(ROUNDS)
            ]
        api = asyncart.Api(project="warm")
        target = self._folder / "target"
        await (await api.artifact("small:latest")).download(root=target)

        async def download() -> None:
            await (await api.artifact("small:latest")).download(root=target)

        downloads = [await self._counted(download) for _ in range(5)]
        return {
            "log_s": median(wall_s for wall_s, _ in logs),
            "slowest_log_s": max(wall_s for wall_s, _ in logs),
            "log_requests": float(max(count for _, count in logs)),
            "download_s": median(wall_s for wall_s, _ in downloads),
            "download_requests": float(max(count for _, count in downloads)),
            "digests_s": await self._ask(run.entity),
        }

    async def _log(self, run: asyncart.Run, label: str) -> None:
        folder = self._folder / label
        folder.mkdir()
        for index in range(FILES):
            (folder / f"{index}.bin").write_bytes(os.urandom(FILE_BYTES))
        artifact = asyncart.Artifact("small", "dataset")
        artifact.add_dir(folder)
        await run.log_artifact(artifact)

    async def _counted(self, call: Callable[[], Awaitable[None]]) -> tuple[float, int]:
        before = sum(map(requests_of, self._urls))
        started = time.perf_counter()
        await call()
        wall_s = time.perf_counter() - started
        await anyio.sleep(0.05)  # a request is counted a moment after it was answered
        return wall_s, sum(map(requests_of, self._urls)) - before

    async def _ask(self, entity: str) -> float:
        """Have-these-digests, for as many as a large folder has; nobody has them: the longest search."""
        workspace = Workspace.of(config.load(project="warm"))
        catalog = await workspace.catalog()
        session = await catalog.begin_session(entity)
        digests = [os.urandom(32) for _ in range(self._digests)]
        started = time.perf_counter()
        assert not await catalog.stored_contents(session, digests)
        wall_s = time.perf_counter() - started
        await catalog.end_session(session)
        await workspace.aclose()
        return wall_s


def main() -> None:
    answer = anyio.run(Warm(json.loads(sys.argv[1])).run, backend_options={"use_uvloop": True})
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
