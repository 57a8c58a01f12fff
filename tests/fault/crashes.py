"""What the victims of `test_killed` and `test_many_processes` do, in processes of their own.

They are forked from a server that has imported asyncart and done nothing else, so that each costs a few
milliseconds. A victim ends itself with SIGKILL just before its k-th act: a system call of the store or of
the target, or a statement of the catalog. Between two acts nothing is written, so these are all the moments there are.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from workplace import scale_down

from asyncart import aio
from asyncart.aio import workspace as workspace_module
from asyncart.catalog import sqlite as catalog_sqlite
from asyncart.engine import compact, target
from asyncart.stores import disk, local

ACTS = (
    "open",
    "pwritev",
    "pwrite",
    "write",
    "replace",
    "fsync",
    "fdatasync",
    "unlink",
    "ftruncate",
)
STATEMENTS = ("BEGIN IMMEDIATE", "COMMIT")
FAILED = 70  # exit status of a victim that failed otherwise


def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crashes"])
    with pytest.MonkeyPatch.context() as patch:
        # the server does not take over our sys.path before Python 3.13
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        forkserver.ensure_running()
    return context


class Countdown:
    """Ends the process at act `at`; -1 never."""

    def __init__(self, at: int) -> None:
        self.left = at

    def act(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


class CountedOs:
    """The `os` of a module, whose writing calls count down."""

    def __init__(self, countdown: Countdown) -> None:
        self._countdown = countdown

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ACTS:
            return real

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._countdown.act()
            return real(*args, **kwargs)

        return counted


def count_acts(countdown: Countdown) -> None:
    counted = CountedOs(countdown)
    for module in (disk, local, target, workspace_module):
        module.os = counted  # type: ignore[attr-defined]
    real_open = catalog_sqlite.SqliteDatabase._open

    def open_traced(database: Any) -> sqlite3.Connection:
        connection = real_open(database)

        def traced(statement: str) -> None:
            if statement.startswith(STATEMENTS):
                countdown.act()

        connection.set_trace_callback(traced)
        return connection

    catalog_sqlite.SqliteDatabase._open = open_traced  # type: ignore[method-assign]


def victim(work: Callable[..., Any], *args: Any) -> None:
    """Run the coroutine function to its end; what goes wrong is told to who reads the log."""
    try:
        asyncio.run(work(*args))
    except BaseException:
        traceback.print_exc()
        os._exit(FAILED)
    os._exit(0)


def die_while_logging(home: Path, store: Path, source: Path, told: Path, at: int) -> None:
    scale_down(pytest.MonkeyPatch())
    countdown = Countdown(-1 if at < 0 else at)
    count_acts(countdown)
    victim(_log, home, store, source, told)


async def _log(home: Path, store: Path, source: Path, told: Path) -> None:
    async with aio.init(project="p", home=home, store=str(store)) as run:
        artifact = aio.Artifact("data", "dataset")
        artifact.add_dir(source)
        await run.log_artifact(artifact)
        told.write_text(artifact.version)


def die_while_downloading(home: Path, store: Path, folder: Path, at: int) -> None:
    scale_down(pytest.MonkeyPatch())
    countdown = Countdown(-1)
    count_acts(countdown)
    victim(_download, home, store, folder, countdown, at)


async def _download(home: Path, store: Path, folder: Path, countdown: Countdown, at: int) -> None:
    async with aio.init(project="p", home=home, store=str(store)) as run:
        artifact = await run.use_artifact("data:v0")
        countdown.left = at
        await artifact.download(folder)


def die_while_collecting(home: Path, store: Path, at: int) -> None:
    patch = pytest.MonkeyPatch()
    scale_down(patch)
    patch.setattr(compact, "LEAST_GAIN_BYTES", 1 << 10)
    countdown = Countdown(-1)
    count_acts(countdown)
    victim(_collect, home, store, countdown, at)


async def _collect(home: Path, store: Path, countdown: Countdown, at: int) -> None:
    async with aio.Api(project="p", home=home, store=str(store)) as api:
        await api.collections()
        countdown.left = at
        await api.collect()


def log_big(home: Path, store: Path, source: Path, told: Path) -> None:
    """At full scale: to be killed from outside at any time."""
    victim(_log, home, store, source, told)


def log_several(home: Path, store: Path, sources: list[Path], start: Any, results: Any) -> None:
    victim(_log_several, home, store, sources, start, results)


async def _log_several(
    home: Path, store: Path, sources: list[Path], start: Any, results: Any
) -> None:
    versions = []
    start.wait(60)
    async with aio.init(project="p", home=home, store=str(store)) as run:
        for source in sources:
            artifact = aio.Artifact("data", "dataset")
            artifact.add_dir(source)
            await run.log_artifact(artifact)
            versions.append((artifact.version, artifact.digest))
    results.put(versions)
    results.close()
    results.join_thread()
