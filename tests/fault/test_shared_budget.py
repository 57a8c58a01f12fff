"""Several logs at once on a small budget: nobody waits for buffers while holding some."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from material import content, read_tree, write_tree
from workplace import KIB, scale_down

from asyncart import aio, stores
from asyncart.engine.tasks import task_group
from asyncart.net import budget
from asyncart.net.budget import Budget
from asyncart.stores.memory import MemoryStore

LOGS = 6
FILE_BYTES = 34 << 20  # two parts, and a rest that waits for more


async def test_concurrent_logs_to_a_store_with_parts_all_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 MiB serve six large files at once, although each gathers up to 16 MiB before it sends."""
    store = MemoryStore("shared-budget", part_bytes=8 << 20)

    async def opened(url: str, **options: object) -> MemoryStore:
        return store

    small = Budget(80 << 20)
    monkeypatch.setattr(stores, "open_store", opened)
    monkeypatch.setattr(budget, "process_budget", lambda limit_bytes: small)
    for number in range(LOGS):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "large").write_bytes(os.urandom(FILE_BYTES))

    async with aio.init(project="p", home=tmp_path / "home", store="memory://x") as run:

        async def log(number: int) -> None:
            artifact = aio.Artifact(f"a{number}", "dataset")
            artifact.add_dir(tmp_path / str(number))
            await run.log_artifact(artifact)

        with anyio.fail_after(120):
            async with task_group() as group:
                for number in range(LOGS):
                    group.start_soon(log, number)
        assert len(await run.logged_artifacts()) == LOGS
    assert small.used_bytes == 0
    assert small.peak_bytes <= 80 << 20


async def test_concurrent_logs_of_edited_files_and_packs_all_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little of each block is new, too little for a part: given back all the same, and nothing is torn.

    Files that had to give buffers back lie in several objects then.
    """
    scale_down(monkeypatch)
    store = MemoryStore("shared-budget", part_bytes=8 * KIB)

    async def opened(url: str, **options: object) -> MemoryStore:
        return store

    small = Budget(80 * KIB)  # five blocks
    monkeypatch.setattr(stores, "open_store", opened)
    monkeypatch.setattr(budget, "process_budget", lambda limit_bytes: small)

    def tree(number: int, edition: int) -> dict[str, bytes]:
        large = bytearray(content(("large", number), 200 * KIB))
        if edition:
            for at in range(5 * KIB, len(large), 14 * KIB):  # a chunk or two of each block
                large[at : at + 8] = content((at, number), 8)
        files = {f"{n}": content((number, edition, n), 3 * KIB) for n in range(30)}
        return {**files, "large": bytes(large)}

    settings = {"home": folder / "home", "store": "memory://x"}
    async with aio.init(project="p", **settings) as run:

        async def log(number: int, edition: int) -> None:
            artifact = aio.Artifact(f"a{number}", "dataset")
            source = write_tree(folder / f"{number}-{edition}", tree(number, edition))
            artifact.add_dir(source)
            await run.log_artifact(artifact)
            target = folder / f"out-{number}-{edition}"
            await artifact.download(target)
            assert read_tree(target) == tree(number, edition)

        with anyio.fail_after(120):
            for edition in (0, 1):
                async with task_group() as group:
                    for number in range(LOGS):
                        group.start_soon(log, number, edition)
    assert small.used_bytes == 0
    assert small.peak_bytes <= 80 * KIB
