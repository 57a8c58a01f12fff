"""Cancelling over a real bucket, at every step: nothing is left behind, and the same then succeeds.

Every mode takes every third step, beginning with another one, so that together they take all.
"""

from __future__ import annotations

from functools import partial

import pytest
from material import read_tree
from s3_rig import Rig, Workshop, in_thread, large_file, small_files, workshop
from steps import By, Moment, cancelled_at
from workplace import check_hands_empty, settle, temps_below

__all__ = ["workshop"]

STRIDE = 3
MODES = pytest.mark.parametrize(
    ("by", "moment", "start"),
    [
        ("scope", "waiting", 0),
        ("scope", "answered", 1),
        ("task", "waiting", 2),
        ("task", "answered", 0),
    ],
)


def both(seed: object) -> dict[str, bytes]:
    """A pack, a multipart upload of two parts, a manifest."""
    return small_files(seed) | large_file(seed)


@MODES
async def test_a_log_cancelled_at_any_step(
    workshop: Workshop, by: By, moment: Moment, start: int
) -> None:
    """No task, memory or file, no upload that the catalog does not know; the next attempt succeeds.

    A request that was broken off may be carried out late: then the collector finds what came of it.
    """
    async with workshop.rig(is_direct=True) as rig, rig.init() as run:
        await run.log_artifact(rig.artifact({"x": b"warm"}, "warm"))
        step, stored, outcome = start, 0, ""
        while outcome != "not reached":
            tree = both((by, moment, step))
            artifact = rig.artifact(tree)
            outcome = await cancelled_at(step, by, moment, partial(run.log_artifact, artifact))
            await settle()
            check_hands_empty(rig)
            await in_thread(rig.check_bucket)
            if artifact.is_draft:
                await run.log_artifact(artifact)
            assert artifact.version == f"v{stored}"
            stored += 1
            step += STRIDE
        assert (await artifact.verify()).is_ok
        await rig.check_collected()
        assert step > 30


@MODES
async def test_a_download_cancelled_at_any_step(
    workshop: Workshop, by: By, moment: Moment, start: int
) -> None:
    """No temporary file either; what has its final name is whole."""
    async with workshop.rig(is_direct=True) as rig, rig.init() as run:
        tree = both("download")
        await run.log_artifact(rig.artifact(tree))
        step, outcome = start, ""
        while outcome != "not reached":
            await forget(rig)
            artifact = await run.use_artifact("data:v0")
            target = rig.fresh("target")
            outcome = await cancelled_at(step, by, moment, partial(artifact.download, target))
            await settle()
            check_hands_empty(rig)
            assert not temps_below(target)
            found = read_tree(target)
            assert found.items() <= tree.items()
            step += STRIDE
        assert found == tree
        assert step > 10


async def forget(rig: Rig) -> None:
    await in_thread(rig.forget_cache)
