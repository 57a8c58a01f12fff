"""Every fault, over every request of a log and of a download, once, three times and for ever.

Transient ones are survived. Permanent ones are the right error in time. Afterwards nothing is left: no
task, file, memory, temporary file or upload that the catalog does not know; and when the fault is gone,
the same content becomes exactly one version, with the right bytes.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import anyio
import pytest
from s3_rig import CONTROL_ATTEMPTS, Rig, Workshop, in_thread, large_file, small_files, workshop
from workplace import Tree, check_hands_empty, content, open_paths, read_tree, settle, temps_below

from asyncart.errors import (
    AsyncartError,
    Conflict,
    Corrupt,
    Denied,
    TransferError,
    Unavailable,
)
from tests.faultproxy import CONNECTION_FAULTS

__all__ = ["workshop"]

SIDE_BY_SIDE = 10  # cases at once; their time is mostly waiting
DEADLINE_S = 20.0  # of one case; the patience is a second, and the machine may be busy
FOR_EVER = math.inf


class Operation(NamedTuple):
    """A request, by how it looks on the wire, in a transfer that makes it."""

    name: str
    is_upload: bool
    method: str
    query: str | None
    tree: Callable[[object], dict[str, bytes]]
    passes: int = 0  # so many requests that look the same come first and go through


def empty_file(seed: object) -> dict[str, bytes]:
    """Nothing but a manifest."""
    return {f"empty-{seed}": b""}


OPERATIONS = [
    Operation("pack", True, "PUT", "", small_files),
    Operation("manifest", True, "PUT", "", empty_file),
    Operation("create", True, "POST", "uploads", large_file),
    Operation("part", True, "PUT", "partNumber", large_file),
    Operation("complete", True, "POST", "uploadId", large_file),
    Operation("footer", False, "GET", "", empty_file),
    Operation("small range", False, "GET", "", small_files, passes=2),
    Operation("chunk range", False, "GET", "", large_file, passes=2),
]
CONTROL = ("create", "complete")

OF_ANY = (
    "reset-before-head",
    "stall-before-head",
    "garbage",
    "reset-after-head",
    "reset-at-1",
    "reset-at-half",
    "reset-at-last",
    "reset-after-body",
    "stall",
    "truncate",
    "500",
    "502",
    "503",
    "429",
    "408",
    "403-expired",
    "409",
    "412",
    "error-200",
)
OF_UPLOADS = ("reset-in-upload", "stall-in-upload", "early-503")
OF_DOWNLOADS = ("wrong-range", "ignore-range", "short", "long", "gzip", "flip", "drip")


def kinds_of(operation: Operation) -> tuple[str, ...]:
    if not operation.is_upload:
        return OF_ANY + OF_DOWNLOADS
    return OF_ANY if operation.name in CONTROL else OF_ANY + OF_UPLOADS


# An answer without a body has nothing after its head to break.
HARMLESS_WITHOUT_BODY = {
    "reset-after-head",
    "reset-at-1",
    "reset-at-half",
    "reset-at-last",
    "reset-after-body",
    "stall",
    "truncate",
}


def expected(operation: Operation, kind: str, times: float) -> type[AsyncartError] | None:
    """The error that the user gets, or None where the transfer must succeed."""
    is_put = operation.method == "PUT"
    if is_put and kind in HARMLESS_WITHOUT_BODY:
        return None
    if kind == "reset-after-body":
        return None
    if kind == "403-expired":  # signed anew, once
        return None if times == 1 else Denied
    if kind == "412":  # somebody else's object: a log tries once more with a new one
        return None if times == 1 and operation.is_upload else Conflict
    if kind == "flip":  # elsewhere there is no other copy
        return Corrupt
    if times < FOR_EVER:
        return None
    if kind == "409":
        return Conflict
    if kind in ("error-200", "wrong-range", "ignore-range", "short", "long", "gzip"):
        return Unavailable if operation.name in CONTROL else TransferError
    return Unavailable


@pytest.mark.parametrize("times", [1, 3, FOR_EVER], ids=["once", "three times", "for ever"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_a_fault_of_a_request(
    workshop: Workshop, operation: Operation, times: float
) -> None:
    """At every place, of every kind: survived, or the right error in time; nothing is left behind."""

    def arm(rig: Rig, kind: str) -> None:
        method, query = operation.method, operation.query
        rig.proxy.inject(kind, times, method=method, query=query, passes=operation.passes)

    await check_all(workshop, operation, kinds_of(operation), times, arm)


@pytest.mark.parametrize("times", [1, 3, FOR_EVER], ids=["once", "three times", "for ever"])
@pytest.mark.parametrize("name", ["pack", "part", "small range", "chunk range"])
async def test_a_fault_of_the_connection(workshop: Workshop, name: str, times: float) -> None:
    """Refused, or swallowed in silence, before anything is asked."""
    operation = next(each for each in OPERATIONS if each.name == name)
    await check_all(
        workshop,
        operation,
        CONNECTION_FAULTS,
        times,
        lambda rig, kind: rig.proxy.inject(kind, times),
    )


async def check_all(
    workshop: Workshop,
    operation: Operation,
    kinds: tuple[str, ...],
    times: float,
    arm: Callable[[Rig, str], None],
) -> None:
    """All these kinds, side by side; whatever went wrong, by kind."""
    before = len(open_paths())
    failures: dict[str, BaseException] = {}
    turns = anyio.Semaphore(SIDE_BY_SIDE)

    async def case(kind: str) -> None:
        async with turns, workshop.rig() as rig:
            try:
                check = check_log if operation.is_upload else check_download
                await check(rig, operation, lambda: arm(rig, kind), expected(operation, kind, times))
            except Exception as error:
                failures[kind] = error

    async with asyncio.TaskGroup() as group:
        for kind in kinds:
            group.create_task(case(kind))
    assert not failures, "\n".join(f"{kind}: {error!r}" for kind, error in failures.items())
    await settle()
    gc.collect()
    assert len(open_paths()) <= before, open_paths()


async def check_log(
    rig: Rig, operation: Operation, arm: Callable[[], None], error: type[AsyncartError] | None
) -> None:
    tree = operation.tree(rig.prefix)
    async with rig.init() as run:
        await run.log_artifact(rig.artifact({"warm": b""}, "warm"))  # connections are there
        arm()
        await attempt(lambda: run.log_artifact(rig.artifact(tree)), error)
        await in_thread(rig.check_bucket)
        rig.proxy.clear()
        artifact = await run.log_artifact(rig.artifact(tree))
        assert artifact.version == "v0"
    await in_thread(rig.check_bucket)
    await check_content(rig, tree)


async def check_download(
    rig: Rig, operation: Operation, arm: Callable[[], None], error: type[AsyncartError] | None
) -> None:
    tree = operation.tree(rig.prefix)
    target = rig.fresh("target")
    async with rig.init() as run:
        await run.log_artifact(rig.artifact(tree))
    rig.forget_cache()
    async with rig.init() as run:
        artifact = await run.use_artifact("data:v0")
        arm()
        await attempt(lambda: artifact.download(target), error)
        rig.proxy.clear()
        if error is None:
            assert read_tree(target) == tree
        else:
            whole = {p: d for p, d in read_tree(target).items() if not p.endswith(PARTIAL)}
            assert whole.items() <= tree.items(), "wrong bytes under a final name"
        if error is Corrupt:
            # the object is marked as damaged: heal it, as the message says
            artifact = await run.log_artifact(rig.artifact(tree))
        await artifact.download(target)
        assert read_tree(target) == tree
        assert not temps_below(target)
    await in_thread(rig.check_clean)


PARTIAL = ".asyncart-partial"


async def attempt(
    work: Callable[[], Awaitable[object]], error: type[AsyncartError] | None
) -> None:
    """It succeeds, or fails with exactly this class, in time."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(DEADLINE_S):
            if error is None:
                await work()
                return
            with pytest.raises(AsyncartError) as caught:
                await work()
    except TimeoutError:
        raise AssertionError(f"not done after {time.monotonic() - started:.1f} s") from None
    assert isinstance(caught.value, error), f"{caught.value!r} instead of {error.__name__}"


async def check_content(rig: Rig, tree: Tree) -> None:
    """Exactly one version, and all of its bytes are right."""
    async with rig.init() as run:
        artifact = await run.use_artifact("data:latest")
        assert artifact.version == "v0"
        target = rig.fresh("target")
        await artifact.download(target)
        assert read_tree(target) == tree
    versions = rig.query(
        "SELECT count(*) FROM versions JOIN collections ON collections.id = collection_id"
        " WHERE collections.name = 'data'"
    )
    assert versions == [(1,)]
