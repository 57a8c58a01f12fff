"""Kill -9 while a log over S3 is under way, at enumerated requests and at random times, and log again.

The next attempt makes exactly one version; of what had arrived it sends at most one part per connection
again, whether of large files or of packs; no upload is open that the catalog does not know, and the collector removes what was given up.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from material import content, read_tree, write_tree
from s3_logger import CONNECTIONS
from s3_rig import MIB, Rig, Workshop, in_thread, workshop
from workplace import Tree

from asyncart.engine import plan
from asyncart.engine.tasks import default_threads
from tests.faultproxy import Exchange

__all__ = ["workshop"]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0

LARGE = {"large": content("killed", 40 * MIB)}  # seven parts or eight
MANY = {f"{n % 10}/{n}": content(("killed", n), 5_000) for n in range(2000)}  # 150 packs
PACKS = {
    f"{n % 10}/{n}": content(("packs", n), 6_000) for n in range(12_000)
}  # four packs, or five
PACKS_OF = str(17 * MIB)  # two parts each, or three
PACK_PART = 11 * MIB  # the first one; the others are half as long
MANIFEST_BYTES = 800_000  # of PACKS, at most


@asynccontextmanager
async def logging(
    rig: Rig, source: Path, *options: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own that logs the folder; killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("s3_logger.py")),
        str(source),
        *options,
        stdout=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/fault")]
            ),
            "ASYNCART_HOME": str(rig.home),
            "ASYNCART_OBJECTS": rig.url,
            "AWS_ENDPOINT_URL_S3": rig.proxy.url,
            "ASYNCART_THREADS": "2",
        },
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    with anyio.fail_after(PATIENCE_S):
        return (await process.stdout.readline()).decode().strip()


async def killed_when(rig: Rig, source: Path, is_time: Callable[[], bool], *options: str) -> None:
    async with logging(rig, source, *options) as process:
        assert await line(process) == "begun"
        with anyio.fail_after(PATIENCE_S):
            while not is_time() and process.returncode is None:  # noqa: ASYNC110
                await anyio.sleep(0.001)


def parts_sent(exchanges: list[Exchange]) -> Counter[str]:
    """How often each part of the large file was stored, in whatever object: number -> times."""
    counts: Counter[str] = Counter()
    for each in exchanges:
        number = parse_qs(urlsplit(each.target).query).get("partNumber")
        if each.method == "PUT" and number and each.status == 200:
            counts[number[0]] += 1
    return counts


def have_arrived(rig: Rig, nbytes: int) -> bool:
    return sum(rig.proxy.bytes_up.values()) >= nbytes


async def check_recovered(
    rig: Rig, source: Path, tree: Tree, *options: str, kills: int = 1
) -> None:
    """The next attempt: one version, little sent twice, nothing unknown, and the rest is collected."""
    for key in await in_thread(rig.bucket.open_uploads, rig.prefix):
        assert key in rig.known_keys()
    async with logging(rig, source, *options) as process:
        assert await line(process) == "begun"
        assert await line(process) == "v0"
        await process.wait()
    sent = sum(each.sent for each in rig.exchanges("PUT") if each.status == 200)
    again = sent - sum(map(len, tree.values())) - MANIFEST_BYTES
    if tree is PACKS:
        assert again <= kills * CONNECTIONS * PACK_PART
    elif (
        tree is MANY
    ):  # a pack of one request that was stored is known when the catalog has heard of it
        assert again <= kills * (default_threads() + CONNECTIONS) * plan.PACK_BYTES
    else:
        twice = sum(count - 1 for count in parts_sent(rig.proxy.exchanges).values())
        assert twice <= kills * CONNECTIONS
    await in_thread(rig.check_bucket)
    async with rig.init() as run:
        artifact = await run.use_artifact("data:latest")
        assert artifact.version == "v0"
        await rig.check_collected()
        target = rig.fresh("target")
        await artifact.download(target)
        assert read_tree(target) == tree


@pytest.mark.parametrize("parts", range(0, 9, 2))
async def test_a_large_file_is_killed_when_so_many_parts_have_arrived(
    workshop: Workshop, parts: int
) -> None:
    """From the first part to the last: what the catalog noted is not sent again."""
    async with workshop.rig() as rig:
        await rig.warm_up()
        source = rig.source(LARGE)
        await killed_when(rig, source, lambda: len(parts_sent(rig.proxy.exchanges)) >= parts)
        await check_recovered(rig, source, LARGE)


@pytest.mark.parametrize("is_first", [False, True], ids=["known-store", "new-store"])
@pytest.mark.parametrize(
    ("method", "query"), [("POST", "uploads"), ("POST", "uploadId"), ("PUT", "")]
)
async def test_a_large_file_is_killed_when_a_request_was_answered_and_nobody_heard(
    workshop: Workshop, method: str, query: str, is_first: bool
) -> None:
    """The upload begun, the object completed, the manifest stored: but its writer never knew.

    In a new store it is one of those that find out about checksums.
    """
    async with workshop.rig() as rig:
        if not is_first:
            await rig.warm_up()
        source = rig.source(LARGE)
        rig.proxy.inject("stall-after", None, method=method, query=query)
        await killed_when(rig, source, lambda: bool(rig.exchanges(method, query)))
        rig.proxy.faults.clear()
        await check_recovered(rig, source, LARGE)


@pytest.mark.parametrize("tree", [LARGE, MANY], ids=["large", "many"])
async def test_killed_at_random(workshop: Workshop, tree: Tree) -> None:
    """Twice in a row, at any time, then again to the end.

    Other times in every run; a failure shows its seed, and how to have those times again.
    """
    seed = os.environ.get("ASYNCART_TEST_SEED") or os.urandom(4).hex()
    sys.stdout.write(f"ASYNCART_TEST_SEED={seed}\n")
    chance = random.Random(seed)
    async with workshop.rig() as rig:
        await rig.warm_up()
        source = rig.source(tree)
        total = sum(map(len, tree.values()))
        for _ in range(2):
            enough = sum(rig.proxy.bytes_up.values()) + chance.randrange(total)
            await killed_when(rig, source, partial(have_arrived, rig, enough))
        await check_recovered(rig, source, tree, kills=2)


@pytest.mark.parametrize("percent", [10, 25, 40, 60, 80, 95])
async def test_packs_in_parts_are_killed_when_so_much_has_arrived(
    workshop: Workshop, percent: int
) -> None:
    """The next attempt makes the same packs, and goes on with the parts of those that were open."""
    async with workshop.rig() as rig:
        await rig.warm_up()
        source = rig.source(PACKS)
        enough = sum(map(len, PACKS.values())) * percent // 100
        await killed_when(rig, source, partial(have_arrived, rig, enough), PACKS_OF)
        await check_recovered(rig, source, PACKS, PACKS_OF)


async def test_a_file_that_changes_after_its_object_was_completed_is_sent_anew(
    workshop: Workshop,
) -> None:
    """The first attempt stored all of the object and died; the second finds other bytes at its end."""
    async with workshop.rig() as rig:
        await rig.warm_up()
        source = rig.source(LARGE)
        rig.proxy.inject("stall-after", None, method="POST", query="uploadId")
        await killed_when(rig, source, lambda: bool(rig.exchanges("POST", "uploadId")))
        rig.proxy.clear()
        changed = {"large": LARGE["large"][:-MIB] + content("changed", MIB)}
        write_tree(source, changed)
        await check_recovered(rig, source, changed)
