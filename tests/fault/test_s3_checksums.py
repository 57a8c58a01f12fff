"""Whether the store verifies checksums: asked once, before the first upload, and never at the log's expense."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from material import read_tree
from s3_rig import Rig, Workshop, in_thread, large_file, small_files, workshop

from asyncart import aio
from asyncart.aio import sent_checksum
from asyncart.stores import checksums

__all__ = ["workshop"]

HEADER = "x-amz-checksum-crc64nvme"
PROBE_REQUESTS = 6
Trees = pytest.mark.parametrize("make", [small_files, large_file])


def puts(rig: Rig) -> list[dict[str, str]]:
    """The headers of every PUT."""
    return [each.headers for each in rig.proxy.request_heads if each.line.startswith("PUT ")]


async def log(rig: Rig, tree: dict[str, bytes], name: str = "data") -> aio.Artifact:
    """In a run of its own, and checked to be there."""
    async with rig.init() as run:
        artifact = await run.log_artifact(rig.artifact(tree, name))
        target = rig.fresh("target")
        await artifact.download(target)
        assert read_tree(target) == tree
        return artifact


async def test_a_store_that_verifies_is_asked_once(workshop: Workshop) -> None:
    """Then everything is sent with a checksum, by this process and by later ones."""
    async with workshop.rig() as rig:
        await rig.warm_up()
        async with rig.init() as run:
            await run.log_artifact(rig.artifact(small_files(1) | large_file(1)))
        assert len(puts(rig)) == 4  # a pack, two parts, a manifest
        assert all(HEADER in headers for headers in puts(rig))
        await rig.check_collected()


async def test_what_it_costs(workshop: Workshop) -> None:
    """Six tiny requests, and nothing is left of them."""
    async with workshop.rig() as rig, rig.init() as run:
        await run.log_artifact(rig.artifact({"empty": b""}))
        *probe, manifest = rig.proxy.exchanges
        assert len(probe) == PROBE_REQUESTS
        assert sum(each.sent for each in probe if each.method == "PUT") == 27
        assert manifest.method == "PUT"
        await in_thread(rig.check_clean)
        assert await in_thread(rig.keys) == await in_thread(rig.reached_keys)
        rows = await in_thread(rig.query, "SELECT count(*) FROM objects")
        assert rows == [(1,)]


async def test_readers_ask_nothing(workshop: Workshop) -> None:
    async with workshop.rig() as rig:
        await log(rig, small_files(1))
        await in_thread(rig.execute, "DELETE FROM facts WHERE key LIKE 'checksum %'")
        await in_thread(rig.forget_cache)
        rig.proxy.clear()
        async with rig.init() as run:
            artifact = await run.use_artifact("data:v0")
            await artifact.download(rig.fresh("target"))
            assert (await artifact.verify()).is_ok
        assert {each.method for each in rig.proxy.exchanges} == {"GET"}
        assert await in_thread(rig.checksums) == []


@Trees
async def test_bytes_that_change_on_their_way_up_are_sent_again(
    workshop: Workshop, make: Callable[[object], dict[str, bytes]]
) -> None:
    """The store notices at once; nobody has to find out at the first download."""
    async with workshop.rig() as rig:
        await rig.warm_up()
        query = "" if make is small_files else "partNumber"
        rig.proxy.inject("flip", 1, method="PUT", query=query)
        await log(rig, make("up"))
        assert not rig.proxy.faults[0].left
        assert [each.status for each in rig.exchanges("PUT", query)].count(400) == 1


@Trees
async def test_a_store_that_refuses_them_gets_none(
    workshop: Workshop, make: Callable[[object], dict[str, bytes]]
) -> None:
    """Right or wrong, of either kind: that is remembered, and the log goes well."""
    async with workshop.rig() as rig:
        rig.proxy.inject("400", 4, method="PUT")
        await log(rig, make("refused"))
        assert await in_thread(rig.checksums) == ["none"]
        rig.proxy.clear()
        await log(rig, make("again"), "other")
        assert puts(rig)
        assert not any("checksum" in name for headers in puts(rig) for name in headers)


async def test_a_store_that_refuses_them_in_parts_gets_none(workshop: Workshop) -> None:
    async with workshop.rig() as rig:
        rig.proxy.inject("400", 2, method="POST", query="uploads")
        await log(rig, large_file(1))
        assert await in_thread(rig.checksums) == ["none"]
        await in_thread(rig.check_clean)


async def test_a_store_that_forbids_them_gets_none(workshop: Workshop) -> None:
    """403 for what it does not know, while it takes the same without."""
    async with workshop.rig() as rig:
        for turn in range(4):  # refused, signed anew, refused again; then the same without passes
            rig.proxy.inject("403", 2, method="PUT", passes=turn)
        await log(rig, small_files(1))
        assert await in_thread(rig.checksums) == ["none"]


@pytest.mark.parametrize(
    ("kind", "times", "method", "query"),
    [
        ("stall-before-head", 1, "PUT", ""),
        ("stall-before-head", 1, "PUT", "partNumber"),
        ("stall-after", 1, "POST", "uploads"),
        ("stall-after", 1, "POST", "uploadId"),
    ],
)
async def test_a_store_that_is_slow_to_answer_is_asked_another_time(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    times: int,
    method: str,
    query: str,
) -> None:
    """The log does not wait for long, and what was begun is not left behind."""
    with monkeypatch.context() as impatient:
        impatient.setattr(sent_checksum, "PATIENCE_S", 0.2)
        async with workshop.rig() as rig:
            rig.proxy.inject(kind, times, method=method, query=query)
            await log(rig, small_files(1))
            assert await in_thread(rig.checksums) == []
            impatient.undo()
            await log(rig, small_files(2), "other")
            assert await in_thread(rig.checksums) == ["CRC64NVME"]
            await rig.check_collected()


async def test_without_awscrt_nothing_is_asked_and_nothing_is_known(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine may have it; and what that one found out does not disturb this one."""
    async with workshop.rig() as rig:
        with monkeypatch.context() as without:
            without.setattr(checksums, "is_available", lambda: False)
            await log(rig, small_files(1))
            assert await in_thread(rig.checksums) == []
            assert len(rig.exchanges("PUT")) == 2
        await rig.warm_up()
        with monkeypatch.context() as without:
            without.setattr(checksums, "is_available", lambda: False)
            await log(rig, small_files(2), "other")
            assert not any(HEADER in headers for headers in puts(rig))


async def test_another_endpoint_is_another_store(workshop: Workshop) -> None:
    """The same bucket name somewhere else may be a server that does otherwise."""
    async with workshop.rig() as rig:
        await rig.warm_up()
        rig.endpoint = workshop.server.endpoint
        await log(rig, small_files(1))
        assert len(await in_thread(rig.checksums)) == 2
