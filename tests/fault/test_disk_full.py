"""A full disk: a clean error that says what to do, nothing half-done, and a store that works afterwards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from material import content, read_tree
from services import mounted_disk
from workplace import KIB, Place, check_hands_empty, temps_below, use_wrapped_stores

from asyncart.errors import Full

DISK_BYTES = 2 << 20
MESSAGE = r"(?i)(disk full|no space|disk is full).*(free )"


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    """Below the folder of the place, where open files are looked for."""
    with mounted_disk(folder / "disk", DISK_BYTES) as mounted:
        yield mounted


def fill(disk: Path, leave: int) -> Path:
    """Take all the room but some."""
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with open(filler, "wb") as file, contextlib.suppress(OSError):
        file.write(bytes(max(free - leave, 0)))
    return filler


@pytest.mark.parametrize("leave_kib", [0, 4, 16, 40, 80, 120, 160])
@pytest.mark.parametrize("kind", ["small", "large"])
async def test_log_to_a_full_disk(
    local_place: Place, disk: Path, kind: str, leave_kib: int
) -> None:
    """However little room there is: Full, what was logged stays, and logging again works."""
    place = local_place
    place.url = str(disk / "store")
    size, count = (7 * KIB, 30) if kind == "small" else (100 * KIB, 2)
    tree = {f"f{i}": content((kind, i), size) for i in range(count)}
    async with place.init() as run:
        before = await run.log_artifact(place.artifact({"x": b"before"}, "before"))
        filler = fill(disk, leave_kib * KIB)
        artifact = place.artifact(tree)
        with pytest.raises(Full, match=MESSAGE):
            await run.log_artifact(artifact)
        check_hands_empty(place)
        place.check_store()
        assert artifact.is_draft
        target = place.fresh("target")
        await before.download(target)
        assert read_tree(target) == {"x": b"before"}
        filler.unlink()
        await run.log_artifact(artifact)
        assert artifact.version == "v0"
        assert (await artifact.verify()).is_ok
        await place.check_collected()


@pytest.mark.parametrize("leave_kib", [0, 4, 8, 12, 16, 24, 32])
async def test_catalog_on_a_full_disk(local_place: Place, disk: Path, leave_kib: int) -> None:
    """The catalog refuses cleanly, wherever it runs out, and goes on when there is room again."""
    place = local_place
    place.home = disk / "home"
    async with place.init() as run:
        await run.log_artifact(place.artifact({"x": b"before"}, "before"))
        filler = fill(disk, leave_kib * KIB)
        tree = {f"f{i:04}": content(i, 20) for i in range(600)}
        artifact = place.artifact(tree)
        with pytest.raises(Full, match=MESSAGE):
            await run.log_artifact(artifact)
        check_hands_empty(place)
        filler.unlink()
        await run.log_artifact(artifact)
        assert artifact.version == "v0"
        assert (await artifact.verify()).is_ok
        assert (await run.use_artifact("before:v0")).file_count == 1
        await place.check_collected()


async def test_large_file_does_not_fit(
    local_place: Place, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that cannot fit says so before its first byte, and leaves nothing."""
    place = local_place
    use_wrapped_stores(place, monkeypatch)
    tree = {"large": content("large", 3 << 20)}
    async with place.init() as run:
        artifact = await run.log_artifact(place.artifact(tree))
        artifact = await run.use_artifact("data:v0")
        assert place.store is not None
        place.store.clear()
        with pytest.raises(Full, match=MESSAGE) as caught:
            await artifact.download(disk / "target")
        assert "large" in str(caught.value)
        assert f"{3 << 20:,} bytes are needed" in str(caught.value)
        assert place.store.bytes["read_into"] < 200 * KIB  # the manifest
        assert not read_tree(disk / "target")
        del caught  # its traceback holds what it was about
        check_hands_empty(place)


async def test_download_runs_full_and_continues(local_place: Place, disk: Path) -> None:
    """What is there when the disk is full stays; with room, running it again brings the rest."""
    place = local_place
    tree = {f"f{i:03}": content(i, 7 * KIB) for i in range(100)}
    async with place.init() as run:
        artifact = await run.log_artifact(place.artifact(tree))
        filler = fill(disk, 200 * KIB)
        target = disk / "target"
        with pytest.raises(Full, match=MESSAGE):
            await artifact.download(target)
        check_hands_empty(place)
        assert not temps_below(target)
        assert read_tree(target).items() <= tree.items()
        filler.unlink()
        await artifact.download(target)
        assert read_tree(target) == tree


async def test_checkout_runs_full_and_continues(local_place: Place, disk: Path) -> None:
    """What a checkout replaces is not given up for what does not fit."""
    place = local_place
    old = {f"f{i:03}": content(i, 7 * KIB) for i in range(20)} | {"extra": b"x"}
    new = {f"f{i:03}": content((i, "new"), 7 * KIB) for i in range(100)}
    async with place.init() as run:
        artifact = await run.log_artifact(place.artifact(new))
        target = disk / "target"
        for path, data in old.items():
            target.mkdir(exist_ok=True)
            (target / path).write_bytes(data)
        filler = fill(disk, 100 * KIB)
        with pytest.raises(Full, match=MESSAGE):
            await artifact.checkout(target)
        check_hands_empty(place)
        assert not temps_below(target)
        assert read_tree(target).keys() >= old.keys()
        filler.unlink()
        await artifact.checkout(target)
        assert read_tree(target) == new
