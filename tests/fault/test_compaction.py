"""Objects that are mostly dead are emptied: versions stay what they are, readers and writers go on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import crashes
import pytest
from material import content, read_tree
from s3_rig import Workshop, workshop
from workplace import KIB, Place, check_hands_empty, numbered, scale_down

from asyncart import aio, config
from asyncart.aio.collect import collect
from asyncart.aio.run import RunStart
from asyncart.engine import compact
from asyncart.model import object_key
from asyncart.net import budget
from asyncart.stores.local import LocalStore
from bench import postgres

__all__ = ["workshop"]  # a fixture

FILES = 160


@pytest.fixture(autouse=True)
def small_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "LEAST_GAIN_BYTES", 1 * KIB)


LARGE = content("large", 100 * KIB)


class PostgresPlace(Place):
    """A place whose catalog is in a PostgreSQL database; its store is a folder."""

    def __init__(self, folder: Path, catalog: str) -> None:
        super().__init__(folder, "local", str(folder / "store"))
        self.catalog = catalog

    def init(self, project: str = "p", **more: str) -> RunStart:
        return super().init(project, catalog=self.catalog, **more)

    def settings(self) -> config.Settings:
        places = {"home": str(self.home), "objects": self.url, "catalog": self.catalog}
        return config.load(project="p", **places)

    def query(self, text: str) -> list[tuple[object, ...]]:
        command = [postgres.program("psql"), self.catalog, "-qAtX", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(
            [*command, "-F", "\t", "-c", text],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return [tuple(line.split("\t")) for line in done.stdout.splitlines()]

    def execute(self, text: str) -> None:
        self.query(text)


def forget_cache(place: Place) -> None:
    """What is read from now on comes from the store."""
    shutil.rmtree(place.settings().cache_dir, ignore_errors=True)


async def mostly_dead(place: Place, run: aio.Run) -> dict[str, dict[str, bytes]]:
    """Log three versions of which two are deleted; what is left needs a tenth of the objects."""
    trees = {
        "data": numbered(range(4), LARGE[: 20 * KIB] + b"x"),
        "other": numbered(range(2, 6)) | {"again/f002": content(2, 1 * KIB)},
    }
    whole = await run.log_artifact(place.artifact(numbered(range(FILES), LARGE), "whole"))
    for name, tree in trees.items():
        await run.log_artifact(place.artifact(tree, name))
    await whole.delete()
    return trees


async def check_trees(place: Place, run: aio.Run, trees: dict[str, dict[str, bytes]]) -> None:
    for name, tree in trees.items():
        artifact = await run.use_artifact(f"{name}:latest")
        forget_cache(place)
        target = place.fresh("target")
        await artifact.download(target)
        assert read_tree(target) == tree
        assert (await artifact.verify()).is_ok


async def test_what_is_mostly_dead_is_emptied(place: Place) -> None:
    """Same digests and entries, less bytes; a second collection deletes what was emptied."""
    await empty(place)


async def test_what_is_mostly_dead_is_emptied_in_a_bucket(workshop: Workshop) -> None:
    """Of a real server: what the reports say is what the bucket loses, and what was emptied is gone."""
    async with workshop.rig(is_direct=True) as rig:
        mixed, compacted, freed = await empty(rig, lambda: rig.bucket.sizes(rig.prefix))
        assert mixed.items() < compacted.items()  # the copies came on top
        assert freed.items() < compacted.items()
        assert 0 < sum(freed.values()) < sum(mixed.values())
        assert len(freed.keys() & mixed.keys()) < len(mixed)
        rig.check_clean()


async def test_what_is_mostly_dead_is_emptied_for_a_catalog_in_postgres(
    folder: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("ASYNCART_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(budget, "_process", None)
    scale_down(monkeypatch)
    await empty(PostgresPlace(folder, postgres_url))


async def empty(
    place: Place, sizes: Callable[[], dict[str, int]] = dict
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Compact, and collect what that emptied. `sizes` before, between and after."""
    async with place.init() as run:
        trees = await mostly_dead(place, run)
        before = {name: await run.use_artifact(f"{name}:v0") for name in trees}
        place.execute("UPDATE sessions SET expires_at = 0")
        await collect(place.workspace(), compact=False)
        mixed = sizes()
        would = await collect(place.workspace(), dry_run=True)
        report = await collect(place.workspace())
        compacted = sizes()
        assert report.compacted_objects == would.compacted_objects >= 1
        assert report.copied_bytes == would.copied_bytes
        assert report.compacted_bytes == would.compacted_bytes > 3 * report.copied_bytes
        assert set(report.rewritten_versions) == set(would.rewritten_versions)
        assert len(report.rewritten_versions) == 2
        for name, artifact in before.items():
            now = await run.use_artifact(f"{name}:v0")
            assert now.digest == artifact.digest
            assert now._version_info("").manifest != artifact._version_info("").manifest
            assert now.updated_at == artifact.updated_at
        await check_trees(place, run, trees)
        second = await collect(place.workspace())
        freed = sizes()
        if freed:
            gone = sum(compacted.values()) - sum(freed.values())
            assert gone == second.freed_bytes
        assert second.freed_bytes >= report.compacted_bytes
        assert second.compacted_objects == 0
        await check_trees(place, run, trees)
        for name, artifact in before.items():  # by the manifests of before
            forget_cache(place)
            target = place.fresh("target")
            await artifact.download(target)
            assert read_tree(target) == trees[name]
            assert (await artifact.verify()).is_ok
        await place.check_collected()
    assert not place.query("SELECT * FROM objects WHERE is_damaged")
    assert not place.query("SELECT * FROM versions WHERE is_damaged")
    return mixed, compacted, freed


async def test_wrong_bytes_are_not_copied(place: Place) -> None:
    """The object is left alone and marked, so that logging the content again heals it; the others are
    emptied. Nothing is held of the budget, and never more than it has."""
    async with place.init() as run:
        trees = await mostly_dead(place, run)
        place.execute("UPDATE sessions SET expires_at = 0")
        await collect(place.workspace(), compact=False)
        data = (await (await run.use_artifact("data:v0")).get_entry("f001"))._entry
        extent = data.extents[0]
        flip(place, object_key(extent.object_id), extent.offset)
        await collect(place.workspace())
        damaged = place.query("SELECT object_id FROM objects WHERE is_damaged")
        assert damaged == [(extent.object_id,)]
        assert (await collect(place.workspace())).compacted_objects == 0
        artifact = await run.use_artifact("data:v0")
        assert not (await artifact.verify()).is_ok
        again = await run.log_artifact(place.artifact(trees["data"], "data"))
        assert again.version == "v0"
        for name in trees:  # what shares the damaged object is healed by its own content
            await run.log_artifact(place.artifact(trees[name], name))
        await check_trees(place, run, trees)
    check_hands_empty(place)
    budget = place.workspace().budget
    assert 0 < budget.peak_bytes <= budget.limit_bytes


def flip(place: Place, key: str, offset: int) -> None:
    """Change one byte of a stored object."""
    if place.memory is not None:
        stored = bytearray(place.memory.objects[key])
        stored[offset] ^= 1
        place.memory.objects[key] = bytes(stored)
        return
    path = place.files()[key]
    path.chmod(0o644)
    stored = bytearray(path.read_bytes())
    stored[offset] ^= 1
    path.write_bytes(stored)


@pytest.mark.parametrize(("is_collected", "stride"), [(True, 1), (False, 7)])
async def test_collection_killed_at_every_act(
    local_place: Place, folder: Path, is_collected: bool, stride: int
) -> None:
    """kill -9 before any write or transaction (or some of them, where there is garbage to delete first):
    all versions are whole, and the next collections finish it."""
    place = local_place
    async with place.init() as run:
        trees = await mostly_dead(place, run)
        place.execute("UPDATE sessions SET expires_at = 0")
        if is_collected:
            await collect(place.workspace(), compact=False)
        place.execute("UPDATE sessions SET expires_at = 0")
    context = crashes.processes()
    at, compactions = 0, set()
    while True:
        survivor = place.copied_to(folder / f"{at}")
        process = context.Process(
            target=crashes.die_while_collecting, args=(survivor.home, Path(survivor.url), at)
        )
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        async with survivor.init() as run:
            for name in trees:
                assert (await (await run.use_artifact(f"{name}:v0")).verify()).is_ok
            report = await collect(survivor.workspace())
            compactions.add(report.compacted_objects)
            survivor.execute("UPDATE sessions SET expires_at = 0")
            store = await survivor.workspace().store()
            assert isinstance(store, LocalStore)
            await store.sweep(older_than_s=0)
            await survivor.check_collected()
            await check_trees(survivor, run, trees)
        assert not survivor.query("SELECT * FROM objects WHERE is_damaged OR loosened_by NOTNULL")
        shutil.rmtree(survivor.folder)
        if process.exitcode == 0:
            break
        at += stride
    assert at > 25
    assert 0 in compactions  # some had done it all
    assert len(compactions) > 1
