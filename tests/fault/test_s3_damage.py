"""Bytes that went wrong in the bucket, or on the way to it: told, never handed out, healed by logging."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
from material import read_tree
from s3_rig import Rig, Workshop, in_thread, large_file, published, small_files, workshop

from asyncart import aio
from asyncart.errors import Corrupt
from asyncart.stores import checksums

__all__ = ["workshop"]

Trees = pytest.mark.parametrize("make", [small_files, large_file])
CONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")


async def check_heals(
    rig: Rig, run: aio.Run, artifact: aio.Artifact, tree: dict[str, bytes]
) -> None:
    """Corrupt, naming a file of the object; nothing wrong in the target; the same content again heals."""
    await in_thread(rig.forget_cache)
    target = rig.fresh("target")
    with pytest.raises(Corrupt) as caught:
        await artifact.download(target)
    assert any(path in str(caught.value) for path in tree)
    assert published(target).items() <= tree.items()
    healed = await run.log_artifact(rig.artifact(tree))
    assert healed.version == "v0"
    await in_thread(rig.forget_cache)
    await healed.download(target)
    assert read_tree(target) == tree
    assert (await healed.verify()).is_ok


@Trees
@pytest.mark.parametrize("how", ["flipped", "shortened", "deleted"])
async def test_an_object_that_somebody_damaged(
    workshop: Workshop, make: Callable[[object], dict[str, bytes]], how: str
) -> None:
    """Overwritten, cut off or removed by another program."""
    async with workshop.rig() as rig, rig.init() as run:
        tree = make("damage")
        artifact = await run.log_artifact(rig.artifact(tree))
        keys = await in_thread(rig.keys)
        stored = [(key, await in_thread(rig.bucket.read, rig.prefix, key)) for key in keys]
        key, data = max(stored, key=lambda item: len(item[1]))
        if how == "deleted":
            await in_thread(rig.bucket.delete, rig.prefix, key)
        else:
            wrong = data[:-1] if how == "shortened" else bytes([data[0] ^ 1]) + data[1:]
            await in_thread(rig.bucket.write, rig.prefix, key, wrong)
        await check_heals(rig, run, artifact, tree)


@Trees
async def test_a_store_that_verifies_nothing(
    workshop: Workshop, make: Callable[[object], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took other bytes than were sent, and said yes: the download finds out, and logging heals."""
    monkeypatch.setattr(
        checksums, "is_available", lambda: False
    )  # a server ignores what is not sent
    async with workshop.rig() as rig, rig.init() as run:
        tree = make("flip")
        query = "" if make is small_files else "partNumber"
        rig.proxy.inject("flip", 1, method="PUT", query=query)
        artifact = await run.log_artifact(rig.artifact(tree))
        await check_heals(rig, run, artifact, tree)


Reading = Callable[[aio.Artifact, Rig], Awaitable[object]]


async def downloading(artifact: aio.Artifact, rig: Rig) -> object:
    target = rig.fresh("target")
    await artifact.download(target)
    return read_tree(target)


async def opening(artifact: aio.Artifact, rig: Rig) -> object:
    return {entry.path: await entry.read() for entry in await artifact.files()}


async def verifying(artifact: aio.Artifact, rig: Rig) -> object:
    return (await artifact.verify()).is_ok


@Trees
@pytest.mark.parametrize("read", [downloading, opening, verifying])
@pytest.mark.parametrize("nth", range(3))
async def test_a_bit_that_flips_on_the_way_is_survived(
    workshop: Workshop,
    make: Callable[[object], dict[str, bytes]],
    read: Reading,
    nth: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the footer, a block or the files: read again, told in the log, and nothing counts as damaged.

    Nor do the wrong bytes stay in the cache: the next reader finds right ones.
    """
    async with workshop.rig() as rig, rig.init() as run:
        tree = make("transit")
        await run.log_artifact(rig.artifact(tree))
        artifact = await run.use_artifact("data:v0")
        expected = True if read is verifying else tree
        rig.proxy.inject("flip", 1, method="GET", query="", passes=nth)
        assert await read(artifact, rig) == expected
        (flip,) = rig.proxy.faults
        assert not flip.left, "the fault hit nothing"
        warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
        assert ["read again" in each.getMessage() for each in warnings] == [True]
        damaged = await in_thread(rig.query, "SELECT count(*) FROM objects WHERE is_damaged")
        assert damaged == [(0,)]
        caplog.clear()
        assert await read(await run.use_artifact("data:v0"), rig) == expected
        assert not caplog.records


async def test_nothing_depends_on_conditions(workshop: Workshop) -> None:
    """None is ever sent, so a store that ignores them is as good as any."""
    async with workshop.rig() as rig, rig.init() as run:
        tree = small_files(1) | large_file(1)
        artifact = await run.log_artifact(rig.artifact(tree))
        await artifact.download(rig.fresh("target"))
        assert len(rig.proxy.request_heads) > 6
        for head in rig.proxy.request_heads:
            assert not head.headers.keys() & set(CONDITIONS), head
