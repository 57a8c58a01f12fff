"""Cancelling at any step leaves nothing behind, and the same operation then succeeds."""

from __future__ import annotations

from functools import partial

import pytest
from material import read_tree
from steps import By, Moment, cancelled_at
from workplace import Place, check_hands_empty, settle, small_tree, temps_below

MODES = pytest.mark.parametrize(
    ("by", "moment"),
    # An answer cannot get lost by a scope: anyio waits for it, and cancels at the next step.
    [("scope", "waiting"), ("task", "waiting"), ("task", "answered")],
)


@MODES
async def test_log_cancelled_at_any_step(
    place: Place, monkeypatch: pytest.MonkeyPatch, by: By, moment: Moment
) -> None:
    """No task, thread, memory, file, session or unknown object; the next attempt stores the content."""
    monkeypatch.setenv("ASYNCART_THREADS", "2")  # enough for every kind of step
    async with place.init() as run:
        await run.log_artifact(place.artifact({"x": b"warm"}, "warm"))
        step, stored = 0, 0
        while True:
            tree = small_tree((by, moment, step))
            artifact = place.artifact(tree)
            outcome = await cancelled_at(step, by, moment, partial(run.log_artifact, artifact))
            await settle()
            check_hands_empty(place, at_once=True)
            place.check_store()
            if outcome == "not reached":
                break
            if artifact.is_draft:
                await run.log_artifact(artifact)
            assert artifact.version == f"v{stored}"
            assert (await artifact.verify()).is_ok
            stored += 1
            step += 1
        target = place.fresh("target")
        await artifact.download(target)
        assert read_tree(target) == tree
        await place.check_collected()
    assert step > 30


@MODES
async def test_download_cancelled_at_any_step(place: Place, by: By, moment: Moment) -> None:
    """No temporary file either; what got its final name is whole."""
    async with place.init() as run:
        tree = small_tree("download")
        artifact = await run.log_artifact(place.artifact(tree))
        step = 0
        while True:
            artifact = await run.use_artifact("data:v0")
            target = place.fresh("target")
            outcome = await cancelled_at(step, by, moment, partial(artifact.download, target))
            await settle()
            check_hands_empty(place, at_once=True)
            assert not temps_below(target)
            found = read_tree(target)
            assert found.items() <= tree.items()
            if outcome == "not reached":
                break
            await artifact.download(target)
            assert read_tree(target) == tree
            step += 1
    assert step > 10
