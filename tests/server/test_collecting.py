"""`collect` at a server: it deletes what nothing reaches, and empties what is mostly dead, itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from served import serving

from asyncart import aio
from asyncart.catalog import open_catalog
from asyncart.engine import compact
from asyncart.stores import open_store

FILES, FILE_BYTES = 160, 1024


@pytest.fixture(autouse=True)
def small_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "LEAST_GAIN_BYTES", FILE_BYTES)


def artifact(name: str, tree: dict[str, bytes], folder: Path) -> aio.Artifact:
    folder.mkdir()
    for path, data in tree.items():
        (folder / path).write_bytes(data)
    made = aio.Artifact(name, "dataset")
    made.add_dir(folder)
    return made


@pytest.mark.parametrize("wants", [True, False], ids=["compact", "no-compact"])
async def test_a_server_compacts_unless_it_is_not_to(tmp_path: Path, wants: bool) -> None:
    """A dry run tells the same as what is done then; the version that is left can be read."""
    tree = {f"f{number:03}": os.urandom(FILE_BYTES) for number in range(FILES)}
    part = dict(list(tree.items())[:4])
    catalog = await open_catalog(str(tmp_path / "catalog.sqlite"))
    store = await open_store(str(tmp_path / "store"))
    async with serving(catalog, store) as origin:
        where = {"server": origin, "home": tmp_path / "home"}
        async with aio.init(project="p", **where) as run:
            whole = await run.log_artifact(artifact("whole", tree, tmp_path / "whole"))
            await run.log_artifact(artifact("part", part, tmp_path / "part"))
            await whole.delete()
        async with aio.Api(project="p", **where) as api:
            would = await api.collect(dry_run=True, compact=wants)
            done = await api.collect(compact=wants)
            assert done.compacted_objects == would.compacted_objects == (1 if wants else 0)
            assert done.copied_bytes == would.copied_bytes == (4 * FILE_BYTES if wants else 0)
            assert len(done.rewritten_versions) == (1 if wants else 0)
            second = await api.collect(compact=wants)
            assert (second.freed_bytes > FILES * FILE_BYTES // 2) == wants
            target = await (await api.artifact("part:latest")).download(tmp_path / "target")
            assert {path.name: path.read_bytes() for path in Path(target).iterdir()} == part
    await store.aclose()
    await catalog.aclose()
