"""Clients that log and look while replicas are killed and requests are broken, and what must be true after.

Nothing that `log_artifact` returned is lost, nothing is there twice, no number is missing, every byte is the
one that was logged, and what clients saw of the aliases is linearizable.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import anyio

from bench.measure import CommandFailed
from bench.processes import clean_environment, start
from bench.replicas import Cluster, wait_ready

from .history import Answer, Logged, Seen
from .linear import Operation, violations

PATIENCE_S = 900.0  # with clients that have nothing left to do, or a number of logs to do


@dataclass(frozen=True)
class Load:
    """`processes` x `clients` of them, each with `logs` artifacts of `files` files."""

    processes: int
    clients: int
    logs: int
    collections: int
    files: int = 3
    file_bytes: int = 2048
    looks: bool = True
    project: str = "chaos"
    seconds: float | None = None  # instead of `logs`: go on for so long

    @property
    def limit_s(self) -> float:
        return PATIENCE_S + (self.seconds or 0.0)


@dataclass
class Outcome:
    answer: Answer
    wall_s: float
    kills: int = 0
    problems: list[str] = field(default_factory=list)
    repeated: int = 0  # logs that the library gave up, and the user repeated

    @property
    def per_s(self) -> float:
        """Artifacts logged per second, from the first beginning to the last end."""
        logged = self.answer.logged
        return len(logged) / (max(o.ended_at for o in logged) - min(o.begun_at for o in logged))


def client_environment(url: str, key: str | None, home: Path) -> dict[str, str]:
    return {
        **clean_environment(),
        "ASYNCART_HOME": str(home),
        "ASYNCART_SERVER": url,
        **({"ASYNCART_API_KEY": key} if key else {}),
    }


def run_load(
    cluster: Cluster, load: Load, folder: Path, *, kill_every_s: float | None = None
) -> Outcome:
    """Let the clients work; with `kill_every_s`, kill one replica after the other and start it again.

    Raises CommandFailed if nothing at all was logged, or if they do not come to an end.
    """
    started = time.monotonic()
    processes = [_start_clients(cluster, load, folder, index) for index in range(load.processes)]
    kills = 0
    try:
        victims = cycle(cluster.replicas)
        next_kill_at = started + (kill_every_s or 0)
        while any(process.poll() is None for process, _ in processes):
            if time.monotonic() - started > load.limit_s:
                raise CommandFailed(f"clients are still at work after {load.limit_s:.0f} s")
            if kill_every_s is not None and time.monotonic() >= next_kill_at:
                victim = next(victims)
                victim.kill()
                victim.start()
                kills += 1
                next_kill_at = max(next_kill_at + kill_every_s, time.monotonic())
            time.sleep(0.02)
    finally:
        for process, _ in processes:
            process.kill()
            process.wait(10)
    wall_s = time.monotonic() - started
    whole = Answer()
    problems = []
    for process, path in processes:
        if process.returncode:
            log = path.with_suffix(".log").read_text(errors="replace")
            problems.append(f"a client process ended with {process.returncode}: {log[-2000:]}")
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        whole.logged += [Logged(**each) for each in found["logged"]]
        whole.seen += [Seen(**each) for each in found["seen"]]
        whole.errors += found["errors"]
        problems += [f"{label}: given up" for label in found["given_up"]]
    if not whole.logged:
        raise CommandFailed("\n".join(["nothing was logged", *problems, *whole.errors[-5:]]))
    repeated = sum(one.attempts > 1 for one in whole.logged)
    return Outcome(whole, wall_s, kills, problems, repeated)


def _start_clients(
    cluster: Cluster, load: Load, folder: Path, index: int
) -> tuple[subprocess.Popen[bytes], Path]:
    place = folder / f"clients{index}"
    (place / "files").mkdir(parents=True)
    request: dict[str, Any] = {
        "first": index * load.clients,
        "clients": load.clients,
        "logs": load.logs,
        "collections": load.collections,
        "files": load.files,
        "file_bytes": load.file_bytes,
        "looks": load.looks,
        "project": load.project,
        "seconds": load.seconds,
        "folder": str(place / "files"),
    }
    answer = place / "answer.json"
    with open(place / "answer.log", "wb") as log:
        process = start(
            [sys.executable, "-m", "bench.server.clients", json.dumps(request), str(answer)],
            env=client_environment(cluster.url, cluster.key, place / "home"),
            cwd=place,
            stdout=log,
            stderr=log,
        )
    return process, answer


def check(cluster: Cluster, load: Load, outcome: Outcome, *, downloads: int = 20) -> list[str]:
    """What is wrong with what was logged, in words; nothing, if all of it is there as it should be."""
    for replica in cluster.replicas:
        wait_ready(replica.url)
    expected = load.processes * load.clients * load.logs
    found = list(outcome.problems)
    logged = outcome.answer.logged
    if load.seconds is None and len(logged) != expected:
        found.append(f"{len(logged)} of {expected} logs succeeded: {outcome.answer.errors[-5:]}")
    with tempfile.TemporaryDirectory() as folder:
        found += anyio.run(_check_versions, cluster, load, logged, downloads, Path(folder))
    return found + check_aliases(outcome.answer)


def check_aliases(answer: Answer) -> list[str]:
    """Is what was seen of each alias linearizable?

    A log that was repeated by the user may have moved its aliases twice. Those values are left out, with
    all that saw them: what is left of a linearizable history is linearizable.
    """
    unclear = {(one.collection, one.number) for one in answer.logged if one.attempts > 1}
    histories: dict[tuple[str, str], list[Operation]] = {}
    for seen in answer.seen:
        if (seen.collection, seen.value) not in unclear:
            histories.setdefault((seen.collection, seen.alias), []).append(
                Operation(seen.is_write, seen.value, seen.begun_at, seen.ended_at)
            )
    return [
        f"{collection}:{alias}: {problem}"
        for (collection, alias), history in sorted(histories.items())
        for problem in violations(history)
    ]


async def _check_versions(
    cluster: Cluster, load: Load, logged: Sequence[Logged], downloads: int, folder: Path
) -> list[str]:
    import asyncart.aio as asyncart

    where: Mapping[str, Any] = {
        "server": cluster.url,
        "home": folder / "home",
        **({"api_key": cluster.key} if cluster.key else {}),
    }
    found = []
    async with asyncart.Api(project=load.project, **where) as api:
        for collection in sorted({one.collection for one in logged}):
            mine = [one for one in logged if one.collection == collection]
            versions = {int(each.version[1:]): each for each in await api.artifacts(collection)}
            if sorted(versions) != list(range(len(mine))):
                found.append(f"{collection}: {len(mine)} logged, there are {sorted(versions)}")
            twice = [number for number, n in Counter(one.number for one in mine).items() if n > 1]
            if twice:
                found.append(f"{collection}: versions {twice} were given to two logs")
            found += [
                f"{one.label}: {collection}:v{one.number} is missing, or something else"
                for one in mine
                if one.number not in versions or versions[one.number].digest != one.digest
            ]
            found += [
                f"{one.label}: v{one.number} says that it is {versions[one.number].metadata}"
                for one in mine
                if one.number in versions and versions[one.number].metadata != {"label": one.label}
            ]
        picked = random.Random(0).sample(list(logged), min(downloads, len(logged)))
        for one in picked:
            artifact = await api.artifact(f"{one.collection}:v{one.number}")
            root = Path(await artifact.download(root=folder / one.label))
            for index in range(load.files):
                wanted = random.Random(f"{load.project} {one.label} {index}").randbytes(
                    load.file_bytes
                )
                if (root / f"{index}.bin").read_bytes() != wanted:
                    found.append(f"{one.label}: {index}.bin has other bytes")
    return found
