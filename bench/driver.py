"""One timed asyncart call in a fresh process: `python -m bench.driver REQUEST-JSON ANSWER-FILE`.

The clock runs around the call only: asyncart is imported and the run is open before, and the run is
finished after. Memory is this process's own high-water mark, reset before the call, over what it
held after `import asyncart`; CPU and I/O include worker processes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import proc

Request = dict[str, Any]
Answer = dict[str, Any]


def main(request: Request) -> Answer:
    started = time.perf_counter()
    import asyncart

    import_s = time.perf_counter() - started
    pid = os.getpid()
    baseline = proc.rss_bytes(pid)
    run = asyncart.init(project="bench")
    call, collect = VERBS[request["verb"]](asyncart, run, request)
    init_s = time.perf_counter() - started - import_s

    proc.reset_peak_rss()
    io, cpu_s, started = proc.tree_io(pid), proc.tree_cpu_s(pid), time.perf_counter()
    call()
    wall_s = time.perf_counter() - started
    cpu_s = proc.tree_cpu_s(pid) - cpu_s
    io_after = proc.tree_io(pid)
    peak = proc.peak_rss_bytes(pid)
    answer = {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "read_bytes": io_after.read - io.read,
        "written_bytes": io_after.written - io.written,
        "peak_rss_bytes": peak,
        "baseline_rss_bytes": baseline,
        "import_s": import_s,
        "init_s": init_s,
        **collect(),
    }
    run.finish()
    return answer


Prepared = tuple[Callable[[], None], Callable[[], Answer]]


def log(asyncart: Any, run: Any, request: Request) -> Prepared:
    """Make the artifact, add the folder (or file), log it."""
    source = Path(request["source"])
    logged: list[Any] = []

    def call() -> None:
        artifact = asyncart.Artifact(request["name"], type="dataset")
        if source.is_dir():
            artifact.add_dir(str(source))
        else:
            artifact.add_file(str(source), name="file.bin")
        logged.append(run.log_artifact(artifact))

    return call, lambda: {"version": logged[0].version}


def get(asyncart: Any, run: Any, request: Request) -> Prepared:
    """Use the artifact and download all of it."""

    def call() -> None:
        run.use_artifact(f"{request['name']}:latest").download(root=request["target"])

    return call, dict


def one(asyncart: Any, run: Any, request: Request) -> Prepared:
    """Single files, each with a fresh `use_artifact`; the very first, which imports things, apart."""
    first, *paths = request["paths"]
    times: list[float] = []
    overheads: list[int] = []

    def fetch(path: str) -> None:
        read, started = proc.tree_io(os.getpid()).read, time.perf_counter()
        artifact = run.use_artifact(f"{request['name']}:latest")
        got = artifact.get_entry(path).download(root=request["target"])
        times.append(time.perf_counter() - started)
        read = proc.tree_io(os.getpid()).read - read
        overheads.append(read - os.path.getsize(got))

    def call() -> None:
        for path in paths:
            fetch(path)

    fetch(first)
    first_s = times.pop()
    overheads.clear()
    return call, lambda: {
        "first_file_s": first_s,
        "file_s": sorted(times)[len(times) // 2],
        "slowest_file_s": max(times),
        "overhead_bytes": max(overheads),
    }


def cold(asyncart: Any, run: Any, request: Request) -> Prepared:
    """One file of an artifact that nothing is known of yet, by a process that is up and connected.

    What was asked of the server meanwhile comes from the server itself.
    """
    from .servers import counters, since

    run.use_artifact("warm:latest").download(root=request["target"])
    before = counters(request["metrics_url"])

    def call() -> None:
        artifact = run.use_artifact(f"{request['name']}:latest")
        artifact.get_entry(request["path"]).download(root=request["target"])

    return call, lambda: since(before, counters(request["metrics_url"]))


VERBS: dict[str, Callable[[Any, Any, Request], Prepared]] = {
    "log": log,
    "get": get,
    "one": one,
    "cold": cold,
}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(json.loads(sys.argv[1]))), encoding="utf-8")
