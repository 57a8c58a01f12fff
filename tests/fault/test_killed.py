"""kill -9 at every write of a log or download: never half a version, nothing lost, no unlocking."""

from __future__ import annotations

import random
import signal
from collections import deque
from pathlib import Path
from typing import Any

import crashes
import pytest
from material import content, read_tree, write_tree
from workplace import KIB, Place, temps_below, use_wrapped_stores

from asyncart.errors import NotFound
from asyncart.stores.local import LocalStore

TREE = {
    "a": content("a", 900),
    "b/empty": b"",
    "b/same": content("a", 900),
    "large": content("large", 20 * KIB),
}
PATIENCE_S = 60
AHEAD = 2  # victims die while the survivors of others are looked at


async def check_survivor(place: Place, source: Path, tree: dict[str, bytes], told: Path) -> None:
    """After a kill: whole versions only, what was told is there, and the same log succeeds at once."""
    async with place.init() as run:
        try:
            found = await run.use_artifact("data:latest")
        except NotFound:
            assert not told.exists()
        else:
            assert (await found.verify()).is_ok
            assert found.version == "v0"
        artifact = await run.log_artifact(place.artifact(source))
        assert artifact.version == "v0"
        target = place.fresh("target")
        await artifact.download(target)
        assert read_tree(target) == tree
        store = await place.workspace().store()
        assert isinstance(store, LocalStore)
        await store.sweep(older_than_s=0)
        place.check_store(lost=True)
        await place.check_collected()
        assert (await artifact.verify()).is_ok


async def test_log_killed_at_every_act(local_place: Place) -> None:
    """Every system call that writes, and every transaction of the catalog, is the last one once."""
    place = local_place
    source = place.source(TREE)
    context = crashes.processes()
    root, at = place.folder, 0

    def started(at: int) -> Any:
        home, store, told = root / f"{at}/home", root / f"{at}/store", root / f"told{at}"
        process = context.Process(
            target=crashes.die_while_logging, args=(home, store, source, told, at)
        )
        process.start()
        return process

    ahead = deque(started(at) for at in range(AHEAD))
    while True:
        ahead.append(started(at + AHEAD))
        process = ahead.popleft()
        process.join(PATIENCE_S)
        assert process.exitcode in (0, -signal.SIGKILL)
        place.home, place.url = root / f"{at}/home", str(root / f"{at}/store")
        await check_survivor(place, source, TREE, root / f"told{at}")
        if process.exitcode == 0:
            break
        at += 1
    assert (root / f"told{at}").read_text() == "v0"
    assert at > 25
    for process in ahead:
        process.join(PATIENCE_S)


def killed_download(place: Place, target: Path, at: int) -> int | None:
    """The exit code of a process that dies at that act of its download, if it comes so far."""
    process = crashes.processes().Process(
        target=crashes.die_while_downloading, args=(place.home, Path(place.url), target, at)
    )
    process.start()
    process.join(PATIENCE_S)
    return process.exitcode


async def test_download_killed_at_every_act(
    local_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing half under a final name; what was finished is not fetched again."""
    place = local_place
    use_wrapped_stores(place, monkeypatch)
    tree = {**TREE, "c": content("c", 6 * KIB), "d": content("d", 7 * KIB), "e": b"e" * 7 * KIB}
    total = sum(map(len, tree.values()))
    async with place.init() as run:
        await run.log_artifact(place.artifact(tree))
        assert place.store is not None
        at = 0
        while True:
            target = place.fresh("target")
            exitcode = killed_download(place, target, at)
            assert exitcode in (0, -signal.SIGKILL)
            found = {p: data for p, data in read_tree(target).items() if p in tree}
            assert found.items() <= tree.items()
            artifact = await run.use_artifact("data:v0")
            await artifact.manifest.count()
            place.store.clear()
            await artifact.download(target)
            fetched = sum(length for _, _, length in place.store.reads)
            manifest = artifact._version_info("manifest").manifest.size
            gaps = 2 * KIB  # reading over a gap of 1 KiB is cheaper than another request
            assert fetched <= total - sum(map(len, found.values())) + manifest + gaps
            present = {p: d for p, d in read_tree(target).items() if p in tree}
            assert present == tree
            assert not [name for name in temps_below(target) if "partial" in name]
            if exitcode == 0:
                break
            at += 1
    assert at > 10


async def test_large_download_keeps_what_was_verified(
    local_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large file that was cut off, only the blocks that are missing are fetched."""
    place = local_place
    use_wrapped_stores(place, monkeypatch)
    size = 300 * KIB
    tree = {"large": content("resumed", size)}
    async with place.init() as run:
        await run.log_artifact(place.artifact(tree))
        assert place.store is not None
        for at in (8, 14):
            target = place.fresh("target")
            exitcode = killed_download(place, target, at)
            assert exitcode == -signal.SIGKILL
            assert "large" not in read_tree(target)
            artifact = await run.use_artifact("data:v0")
            await artifact.manifest.count()
            place.store.clear()
            await artifact.download(target)
            assert read_tree(target) == tree
            fetched = sum(length for _, _, length in place.store.reads)
            assert fetched < size - (at - 6) * 8 * KIB


async def test_log_killed_at_any_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same at full scale, at six moments nobody chose."""
    source = folder / "source"
    tree = {f"f{i:03}": content(i, 20 * KIB) for i in range(300)}
    tree |= {f"large{i}": content(("large", i), 9 * KIB * KIB) for i in range(2)}
    write_tree(source, tree)
    context = crashes.processes()
    moments = random.Random(7)
    for attempt in range(6):
        place = Place(folder, "local", str(folder / f"{attempt}/store"))
        place.home = folder / f"{attempt}/home"
        told = folder / f"told{attempt}"
        process = context.Process(
            target=crashes.log_big, args=(place.home, Path(place.url), source, told)
        )
        process.start()
        process.join(moments.uniform(0.03, 0.5))
        process.kill()
        process.join(PATIENCE_S)
        assert process.exitcode in (0, -signal.SIGKILL)
        await check_survivor(place, source, tree, told)
