"""Whatever the number and size of files: no growth of descriptors or threads, and memory as leased."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import anyio
import pytest
from material import content, read_tree
from workplace import KIB, Place, check_hands_empty, settle, small_tree, use_wrapped_stores

from asyncart.engine import listing, manifest, plan
from asyncart.net import budget
from asyncart.stores.wrappers import Operation

MIB = 1 << 20
PATIENCE_S = 60


def limit_memory(monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    """A budget of this size and no other, whatever this process asked for before."""
    monkeypatch.setenv("ASYNCART_MEMORY_BYTES", str(nbytes))  # for whoever asks from now on
    monkeypatch.setattr(budget, "_process", None)


def held() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count()


async def test_many_logs_and_downloads_leave_no_growth(place: Place) -> None:
    """After the first rounds, the process holds what it held: every round is the same."""
    async with place.init() as run:
        seen = []
        for turn in range(8):
            tree = small_tree(turn) | {f"d{i}/f{i}": content((turn, i), 700) for i in range(40)}
            artifact = await run.log_artifact(place.artifact(tree, f"data{turn}"))
            target = place.fresh("target")
            await artifact.download(target)
            assert read_tree(target) == tree
            await (await artifact.get_entry("large")).read()
            assert (await artifact.verify(target)).is_ok
            await settle()
            check_hands_empty(place)
            await place.workspace().aclose()  # objects kept open for the next range
            seen.append(held())
        fds, threads = zip(*seen, strict=True)
        assert max(fds[2:]) <= fds[1]
        assert max(threads) <= 60  # pools, which stay bounded


async def test_everything_is_closed_with_the_last_run(local_place: Place) -> None:
    """A run that ended holds no file of its home and store."""
    place = local_place
    async with place.init() as run:
        artifact = await run.log_artifact(place.artifact(small_tree("closed")))
        await artifact.download(place.fresh("target"))
    mine = [
        path
        for fd in os.listdir("/proc/self/fd")
        if str(place.folder) in (path := _link(fd)) and "statcache" not in path
    ]
    assert not mine
    check_hands_empty(place)


def _link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


@pytest.mark.parametrize("limit_mib", [64, 32])
async def test_memory_stays_within_the_budget(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit_mib: int
) -> None:
    """At full scale: 150 MiB of large and small files through a budget of 64 and of 32 MiB."""
    limit_memory(monkeypatch, limit_mib * MIB)
    block = os.urandom(MIB)
    source = folder / "source"
    source.mkdir()
    for number in range(3):
        with open(source / f"large{number}", "wb") as file:
            for piece in range(40):
                file.write(bytes([number, piece]) + block[2:])
    for number in range(10):
        (source / f"small{number}").write_bytes(bytes([number]) + block[1:] * 3)
    place = Place(folder, "local", str(folder / "store"))
    async with place.init() as run:
        with anyio.fail_after(PATIENCE_S):
            artifact = await run.log_artifact(place.artifact(source))
            target = folder / "target"
            await artifact.download(target)
        used = place.workspace().budget
        assert 16 * MIB <= used.peak_bytes <= used.limit_bytes == limit_mib * MIB
        check_hands_empty(place)
        for name in ("large0", "large2", "small9"):
            assert (target / name).read_bytes() == (source / name).read_bytes()


async def test_a_few_new_files_in_many_batches(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of which little is new wait to fill a part without holding all the memory there is."""
    limit_memory(monkeypatch, 256 * KIB)
    known = {f"f{i:03}a": content(i, 7 * KIB) for i in range(100)}
    large = content("edited", 900 * KIB)
    async with place.init() as run:
        with anyio.fail_after(PATIENCE_S):
            await run.log_artifact(place.artifact({**known, "large": large}))
            edited = bytearray(large)
            for offset in range(0, len(large), 30 * KIB):
                edited[offset] ^= 1
            tree = {**known, "large": bytes(edited)}
            tree |= {f"f{i:03}b": content((i, "new"), 100) for i in range(100)}
            artifact = await run.log_artifact(place.artifact(tree))
        assert artifact.version == "v1"
        target = place.fresh("target")
        await artifact.download(target)
        assert read_tree(target) == tree
        used = place.workspace().budget
        assert 64 * KIB <= used.peak_bytes <= used.limit_bytes == 256 * KIB
        check_hands_empty(place)


async def test_many_small_files_in_few_operations(
    local_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects and requests follow the bytes, not the number of files."""
    place = local_place
    use_wrapped_stores(place, monkeypatch)
    monkeypatch.setattr(plan, "BATCH_FILES", 1024)
    monkeypatch.setattr(listing, "BLOCK_ENTRIES", manifest.BLOCK_ENTRIES)
    tree = {f"{i % 50:02}/{i:05}": b"%d" % i for i in range(4000)}
    async with place.init() as run:
        artifact = await run.log_artifact(place.artifact(tree))
        objects = place.query("SELECT count(*) FROM objects")[0][0]
        assert isinstance(objects, int)
        assert objects <= 1 + place.workspace().threads.count
        assert place.faulty is not None
        written: list[Operation] = place.faulty.operations[:]
        assert len(written) <= 40
        target = place.fresh("target")
        await artifact.download(target)
        assert len(place.faulty.operations) - len(written) <= 40
        assert read_tree(target) == tree
