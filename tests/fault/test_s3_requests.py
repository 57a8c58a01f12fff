"""What a log and a download ask of the bucket, counted on the wire."""

from __future__ import annotations

from material import content, read_tree
from s3_rig import KIB, MIB, Workshop, in_thread, large_file, workshop

__all__ = ["workshop"]

MANY = {f"{n % 10}/{n}": content(n, 1000) for n in range(500)}


async def test_logging_what_has_not_changed_asks_for_nothing(workshop: Workshop) -> None:
    """Nor does logging the same content from another folder."""
    async with workshop.rig() as rig:
        source = rig.source(MANY | large_file(1))
        async with rig.init() as run:
            await run.log_artifact(rig.artifact(source))
        rig.proxy.clear()
        async with rig.init() as run:
            assert (await run.log_artifact(rig.artifact(source))).version == "v0"
            copy = rig.source(MANY | large_file(1))
            assert (await run.log_artifact(rig.artifact(copy))).version == "v0"
        assert rig.proxy.exchanges == []


async def test_of_a_large_file_only_what_changed_is_sent(workshop: Workshop) -> None:
    """One percent in the middle: that, and the rest of the chunks at both ends of it."""
    async with workshop.rig() as rig, rig.init() as run:
        data = bytearray(large_file("edit", 24 * MIB)["large"])
        await run.log_artifact(rig.artifact({"large": bytes(data)}))
        percent = len(data) // 100
        middle = len(data) // 2
        data[middle : middle + percent] = content("new", percent)
        rig.proxy.clear()
        artifact = await run.log_artifact(rig.artifact({"large": bytes(data)}))
        assert artifact.version == "v1"
        manifest_bytes = artifact._info.manifest.size  # type: ignore[union-attr]
        sent = sum(each.sent for each in rig.proxy.exchanges) - manifest_bytes
        assert percent <= sent <= percent + 2 * 256 * KIB
        target = rig.fresh("target")
        await artifact.download(target)
        assert read_tree(target) == {"large": bytes(data)}


async def test_one_file_of_many_costs_three_requests_and_then_none(workshop: Workshop) -> None:
    """Footer, block, bytes; the second time they are here."""
    async with workshop.rig() as rig:
        async with rig.init() as run:
            await run.log_artifact(rig.artifact(MANY))
        await in_thread(rig.forget_cache)
        rig.proxy.clear()
        for at_most in (3, 0):
            async with rig.init() as run:
                artifact = await run.use_artifact("data:latest")
                assert await (await artifact.get_entry("7/77")).read() == MANY["7/77"]
            assert len(rig.proxy.exchanges) <= at_most
            rig.proxy.clear()


async def test_a_warm_download_asks_for_nothing(workshop: Workshop) -> None:
    """A cold one reads the manifest and a few ranges, however many files there are."""
    async with workshop.rig() as rig:
        target = rig.fresh("target")
        async with rig.init() as run:
            artifact = await run.log_artifact(rig.artifact(MANY))
            await in_thread(rig.forget_cache)
            rig.proxy.clear()
            await artifact.download(target)
            assert 0 < len(rig.proxy.exchanges) <= len(MANY) // 10
        assert read_tree(target) == MANY
        rig.proxy.clear()
        async with rig.init() as run:
            await (await run.use_artifact("data:v0")).download(target)
        assert rig.proxy.exchanges == []
