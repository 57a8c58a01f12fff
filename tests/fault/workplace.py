"""A place to go wrong in: a home, a store of some kind, and what must be true of both after any failure.

Everything lies in memory where there is a /dev/shm. `scale_down` makes files "large" at 8 KiB, so that
all paths of the engine (packs, blocks, chunks, parts, ranges) are walked with a few kilobytes.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import pytest
from material import content, write_tree
from services import open_paths

from asyncart import aio, config, stores
from asyncart.aio.collect import collect
from asyncart.aio.run import RunStart
from asyncart.aio.workspace import Workspace
from asyncart.catalog.tables import STORED, WRITING
from asyncart.engine import chunking, listing, objects, plan, upload
from asyncart.model import object_key
from asyncart.stores.local import disk_limiter
from asyncart.stores.memory import MemoryStore
from asyncart.stores.protocol import Store
from asyncart.stores.wrappers import CountingStore, Fault, FaultyStore, Operation

KIB = 1 << 10
TEMP_MARKS = (".tmp", ".asyncart-tmp", ".asyncart-partial")
Tree = Mapping[str, bytes]


def scale_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's sizes, divided by 1024 (chunks: by 1024, too), so that little data takes every path."""
    for name in ("PACK_FILE_BYTES", "PACK_BYTES", "BATCH_BYTES", "BLOCK_BYTES", "RANGE_BYTES"):
        monkeypatch.setattr(plan, name, getattr(plan, name) // KIB)
    monkeypatch.setattr(plan, "GAP_BYTES", plan.GAP_BYTES // KIB)
    monkeypatch.setattr(plan, "BATCH_FILES", 4)
    monkeypatch.setattr(objects, "MULTIPART_BYTES", objects.MULTIPART_BYTES // KIB)
    for name in ("MIN_BYTES", "AVERAGE_BYTES", "MAX_BYTES"):
        monkeypatch.setattr(chunking, name, getattr(chunking, name) // KIB)
    shorter = functools.partial(chunking.select_runs, min_run_bytes=chunking.MIN_RUN_BYTES // KIB)
    monkeypatch.setattr(upload, "select_runs", shorter)
    monkeypatch.setattr(listing, "BLOCK_ENTRIES", 4)


def small_tree(seed: object) -> dict[str, bytes]:
    """Every kind of file: empty, small, twice the same, and (scaled down) large ones of several blocks."""
    return {
        "a/empty": b"",
        "a/one": content((seed, 1), 900),
        "a/same": content((seed, 1), 900),
        "a/two": content((seed, 2), 5 * KIB),
        "b/three": content((seed, 3), 7 * KIB),
        "large": content((seed, 4), 40 * KIB),
    }


def numbered(numbers: range, large: bytes | None = None) -> dict[str, bytes]:
    """Files of 1 KiB, each with the content of its number; and perhaps a large one."""
    tree = {f"f{i:03}": content(i, 1 * KIB) for i in numbers}
    return tree if large is None else tree | {"large": large}


def age(folder: Path, seconds: float = 100) -> None:
    """Make the files older than the racy rule's doubt. (The ctime stays: see `trusting`.)"""
    for path in folder.rglob("*"):
        st = path.stat()
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns - int(seconds * 1e9)))


class Place:
    """One home and one store. `wrap` puts a store between: it counts, and fails as `plan` says."""

    def __init__(self, folder: Path, kind: str, url: str) -> None:
        self.folder = folder
        self.kind = kind
        self.home = folder / "home"
        self.url = url
        self.memory: MemoryStore | None = None
        self.plan: Callable[[Operation], Fault | None] = lambda operation: None
        self.store: CountingStore | None = None
        self.faulty: FaultyStore | None = None
        self._serial = 0

    def init(self, project: str = "p", **more: str) -> RunStart:
        return aio.init(project=project, home=self.home, store=self.url, **more)

    def settings(self) -> config.Settings:
        return config.load(home=str(self.home), objects=self.url, project="p")

    def workspace(self) -> Workspace:
        return Workspace.of(self.settings())

    def fresh(self, name: str = "folder") -> Path:
        """A folder that is not there yet."""
        self._serial += 1
        return self.folder / f"{name}{self._serial}"

    def copied_to(self, folder: Path) -> Place:
        """A copy of a local one."""
        copied = Place(folder, self.kind, str(folder / "store"))
        shutil.copytree(self.home, copied.home)
        shutil.copytree(self.url, copied.url)
        copied.execute(f"UPDATE facts SET value = '{copied.url}' WHERE key = 'store'")
        return copied

    def source(self, tree: Tree) -> Path:
        return write_tree(self.fresh("source"), tree)

    def artifact(self, tree: Tree | Path, name: str = "data") -> aio.Artifact:
        artifact = aio.Artifact(name, "dataset")
        artifact.add_dir(tree if isinstance(tree, Path) else self.source(tree))
        return artifact

    def inner(self, real: Store) -> Store:
        self.faulty = FaultyStore(real, lambda operation: self.plan(operation))
        self.store = CountingStore(self.faulty)
        return self.store

    # what lies where

    def query(self, text: str) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.home / "catalog.sqlite", timeout=30)
        try:
            return connection.execute(text).fetchall()
        finally:
            connection.close()

    def execute(self, text: str) -> None:
        connection = sqlite3.connect(self.home / "catalog.sqlite", timeout=30)
        try:
            with connection:
                connection.execute(text)
        finally:
            connection.close()

    def files(self) -> dict[str, Path]:
        """Objects of a local store: key -> file."""
        found = {}
        for folder, _, names in os.walk(self.url):
            prefix = os.path.relpath(folder, self.url).replace(os.sep, "/")
            found.update({f"{prefix}/{name}": Path(folder, name) for name in names})
        return found

    def keys(self) -> set[str]:
        if self.memory is not None:
            return set(self.memory.objects)
        return set(self.files())

    def check_store(self, *, lost: bool = False) -> None:
        """No bytes that the catalog does not know, no known bytes missing, nothing half-done.

        After a kill (`lost`) the catalog may still hold what the dead process was about to write.

        A whole object may be recorded as being written still: the collector gets it (see `collected`).
        """
        rows = self.query("SELECT object_id, state FROM objects")
        known = {object_key(str(object_id)): state for object_id, state in rows}
        keys = self.keys()
        if self.kind == "local":
            temps = [key for key in keys if key.rpartition("/")[2].startswith(".")]
            assert not temps, temps
        assert keys <= known.keys(), f"unknown to the catalog: {keys - known.keys()}"
        stored = {key for key, state in known.items() if state == STORED}
        assert stored <= keys, f"believed to be stored: {stored - keys}"
        if lost:
            return
        if self.memory is None:  # a broken-off request to a remote store may be carried out later
            half = {key for key, state in known.items() if state == WRITING} - keys
            assert not half, f"recorded for ever: {half}"
        assert self.memory is None or not self.memory.uploads
        assert not self.query("SELECT * FROM sessions WHERE NOT is_over")

    async def check_collected(self) -> None:
        """Once the leases have run out, the collector leaves what versions reach, and nothing else."""
        self.execute("UPDATE sessions SET expires_at = 0")
        await collect(self.workspace())
        reached = self.query(
            "SELECT DISTINCT object_id FROM objects JOIN version_objects ON objects.id = object"
        )
        assert self.keys() == {object_key(str(object_id)) for (object_id,) in reached}


def temps_below(folder: Path) -> list[str]:
    """Names of ours that no user should find in a download folder."""
    return [
        path.name
        for path in folder.rglob("*")
        if path.name.endswith(TEMP_MARKS) and path.name.startswith(".")
    ]


async def settle() -> None:
    """Let callbacks that are due run: what is finished by then was not left behind."""
    for _ in range(3):
        await asyncio.sleep(0)


def check_hands_empty(place: Place, *, at_once: bool = False) -> None:
    """No task, thread at work, leased memory, or open file of the user's is left in this process.

    Files that the traceback of an error holds may wait for the garbage collector, unless `at_once`.
    """
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, others
    workspace = place.workspace()
    for limiter in (
        workspace.threads._limiter,
        disk_limiter(),
        anyio.to_thread.current_default_thread_limiter(),
    ):
        assert limiter.borrowed_tokens == 0
    assert workspace.budget.used_bytes == 0
    if not at_once:
        gc.collect()
    mine = [path for path in open_paths() if str(place.folder) in path]
    strange = [
        path
        for path in mine
        if not path.startswith((str(place.home), place.url))
        or path.endswith(TEMP_MARKS)
        or "(deleted)" in path
    ]
    assert not strange, strange


def use_wrapped_stores(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the library's stores are opened around `place.plan`, and counted."""
    real_open = stores.open_store

    async def open_wrapped(url: str, **options: object) -> Store:
        return place.inner(await real_open(url, **options))

    monkeypatch.setattr("asyncart.stores.open_store", open_wrapped)
