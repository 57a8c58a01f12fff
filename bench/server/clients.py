"""Clients of a server that log and look: `python -m bench.server.clients REQUEST-JSON ANSWER-FILE`.

Each client logs its artifacts one after the other, in turn into the collections, every one with content
that nobody else has and with the alias `best`; between two of them it looks where `latest` and `best` point.
The answer holds every one of these operations with its times (CLOCK_MONOTONIC, which all processes of a
machine share), and what every log returned. A log that raises is repeated, as a user would; one that was
repeated in vain ends the client, and the answer says so.
"""

from __future__ import annotations

import json
import random
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio

import asyncart.aio as asyncart

from .history import Answer, Logged, Seen
from .linear import INITIAL

BEST = "best"
ATTEMPTS = 8  # of one log; each has the library's own repeats inside


class Clients:
    def __init__(self, request: dict[str, Any]) -> None:
        self._first: int = request["first"]
        self._count: int = request["clients"]
        self._logs: int = request["logs"]
        self._collections: int = request["collections"]
        self._files: int = request["files"]
        self._file_bytes: int = request["file_bytes"]
        self._looks: bool = request["looks"]
        self._project: str = request["project"]
        self._until_s: float | None = request.get("seconds")
        self._folder = Path(request["folder"])
        self.answer = Answer()

    async def run(self) -> Answer:
        async with AsyncExitStack() as stack:
            runs = [
                await stack.enter_async_context(asyncart.init(project=self._project))
                for _ in range(self._count)
            ]
            api = asyncart.Api(project=self._project)
            # The first log of a process imports things and connects: that is not what is measured.
            await self._log(runs[0], f"warm-{self._first}", f"warm-{self._first}", alias=False)
            self.answer.logged.clear()
            async with anyio.create_task_group() as group:
                for index, run in enumerate(runs):
                    group.start_soon(self._client, self._first + index, run, api)
        return self.answer

    async def _client(self, number: int, run: asyncart.Run, api: asyncart.Api) -> None:
        picked = random.Random(number)
        ends_at = None if self._until_s is None else time.monotonic() + self._until_s
        serial = 0
        while serial < self._logs if ends_at is None else time.monotonic() < ends_at:
            collection = f"c{(number + serial) % self._collections}"
            done = await self._log(run, f"{number}-{serial}", collection, alias=self._looks)
            if not done:
                return
            if self._looks and picked.random() < 0.7:
                alias = picked.choice(["latest", BEST])
                await self._look(api, picked.choice([collection, "c0"]), alias)
            serial += 1

    async def _log(self, run: asyncart.Run, label: str, collection: str, *, alias: bool) -> bool:
        folder = self._folder / label
        folder.mkdir()
        for index in range(self._files):
            content = random.Random(f"{self._project} {label} {index}").randbytes(self._file_bytes)
            (folder / f"{index}.bin").write_bytes(content)
        begun_at = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            artifact = asyncart.Artifact(collection, "dataset", metadata={"label": label})
            artifact.add_dir(folder)
            try:
                await run.log_artifact(artifact, aliases=[BEST] if alias else None)
            except asyncart.errors.AsyncartError as error:
                self.answer.errors.append(f"{label}: {type(error).__name__}: {error}")
                await anyio.sleep(random.uniform(0.05, 0.5))
                continue
            ended_at = time.monotonic()
            value = int(artifact.version[1:])
            self.answer.logged.append(
                Logged(label, collection, value, artifact.digest, begun_at, ended_at, attempt)
            )
            aliases = ("latest", BEST) if alias else ()
            self.answer.seen += [
                Seen(collection, name, True, value, begun_at, ended_at) for name in aliases
            ]
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            return True
        self.answer.given_up.append(label)
        return False

    async def _look(self, api: asyncart.Api, collection: str, alias: str) -> None:
        begun_at = time.monotonic()
        try:
            artifact = await api.artifact(f"{collection}:{alias}")
            value = int(artifact.version[1:])
        except asyncart.errors.NotFound:
            value = INITIAL
        except asyncart.errors.AsyncartError as error:  # nothing was seen, nothing is claimed
            self.answer.errors.append(f"{collection}:{alias}: {type(error).__name__}: {error}")
            return
        ended_at = time.monotonic()
        self.answer.seen.append(Seen(collection, alias, False, value, begun_at, ended_at))


def main() -> None:
    request = json.loads(sys.argv[1])
    answer = anyio.run(Clients(request).run, backend_options={"use_uvloop": True})
    Path(sys.argv[2]).write_text(json.dumps(asdict(answer)), encoding="utf-8")


if __name__ == "__main__":
    main()
