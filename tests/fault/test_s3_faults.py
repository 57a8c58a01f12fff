"""Every fault, over every request of a log and of a download, once, three times and for ever.

Transient ones are survived. Permanent ones are the right error in time. Afterwards nothing is left: no
task, file, memory, temporary file or upload that the catalog does not know; and when the fault is gone,
the same content becomes exactly one version, with the right bytes.
"""

from __future__ import annotations

import asyncio
import gc
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import product
from typing import NamedTuple

import anyio
import pytest
from material import read_tree
from s3_rig import Rig, Workshop, in_thread, large_file, published, small_files, workshop
from workplace import open_paths, temps_below

from asyncart import aio
from asyncart.errors import (
    AsyncartError,
    Conflict,
    Corrupt,
    Denied,
    TransferError,
    Unavailable,
)
from asyncart.net.budget import process_budget
from tests.faultproxy import CONNECTION_FAULTS

__all__ = ["workshop"]

SIDE_BY_SIDE = 6  # cases at once; their time is mostly waiting
DEADLINE_S = 20.0  # of one case; the patience is a second, and the machine may be busy
FOR_EVER = math.inf
TIMES = (1, 3, FOR_EVER)
PATIENT_S = 15.0  # longer than three stalls
IMPATIENT_S = 1.5


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
OF_UPLOADS = ("reset-in-upload", "stall-in-upload", "early-503", "flip")
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
    if kind == "ignore-range" and operation.name in ("small range", "chunk range"):
        return None  # it is the whole object that was asked for
    if kind == "flip" and operation.is_upload:  # the checksum is wrong: sent again, three times
        return None if times < FOR_EVER else TransferError
    if kind == "flip":  # read once more, then it counts as damage; there is no other copy
        return None if times == 1 else Corrupt
    if times < FOR_EVER:
        return None
    if kind == "409":
        return Conflict
    if kind in ("garbage", "error-200", "wrong-range", "ignore-range", "short", "long", "gzip"):
        return Unavailable if operation.name in CONTROL else TransferError
    return Unavailable


class Case(NamedTuple):
    """One fault of one operation, in a collection of its own."""

    operation: Operation
    kind: str
    times: float

    @property
    def name(self) -> str:
        often = "for-ever" if self.times == FOR_EVER else f"{self.times}x"
        return f"{self.operation.name}-{self.kind}-{often}".replace(" ", "-")

    @property
    def error(self) -> type[AsyncartError] | None:
        return expected(self.operation, self.kind, self.times)

    def tree(self, rig: Rig) -> dict[str, bytes]:
        return self.operation.tree((rig.prefix, self.name))

    def arm(self, rig: Rig) -> None:
        if self.times == FOR_EVER and self.error in (Unavailable, Conflict):
            rig.patience_s = IMPATIENT_S  # only patience ends these
        if self.kind in CONNECTION_FAULTS:
            rig.proxy.inject(self.kind, self.times)
            rig.proxy.drop_connections()  # those that are open would not notice
            return
        operation = self.operation
        rig.proxy.inject(
            self.kind,
            self.times,
            method=operation.method,
            query=operation.query,
            passes=operation.passes,
        )

    def disarm(self, rig: Rig) -> None:
        rig.proxy.clear()
        rig.patience_s = PATIENT_S


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_faults_of_a_request(workshop: Workshop, operation: Operation) -> None:
    """At every place, of every kind: survived, or the right error in time; nothing is left behind."""
    await check_all(
        workshop, [Case(operation, *each) for each in product(kinds_of(operation), TIMES)]
    )


async def test_faults_of_the_connection(workshop: Workshop) -> None:
    """Refused, or swallowed in silence, before anything is asked."""
    some = [each for each in OPERATIONS if each.name not in CONTROL]
    await check_all(workshop, [Case(*each) for each in product(some, CONNECTION_FAULTS, TIMES)])


async def check_all(workshop: Workshop, cases: Sequence[Case]) -> None:
    """All of them, some side by side; whatever went wrong is told for each."""
    before = Counter(open_paths())
    failures: dict[str, BaseException] = {}
    todo = iter(cases)

    async def work() -> None:
        async with workshop.rig() as rig, rig.init() as run:
            await run.log_artifact(rig.artifact({"warm": b""}, "warm"))
            for case in todo:
                try:
                    await (check_log if case.operation.is_upload else check_download)(
                        rig, run, case
                    )
                except Exception as error:
                    failures[case.name] = error
                case.disarm(rig)
            await rig.check_collected()

    async with asyncio.TaskGroup() as group:
        for _ in range(SIDE_BY_SIDE):
            group.create_task(work())
    assert not failures, "\n".join(f"{name}: {error!r}" for name, error in failures.items())
    await check_nothing_left(before)


async def check_nothing_left(before: Counter[str]) -> None:
    """No socket, file, task or leased memory."""
    assert process_budget().used_bytes == 0
    with anyio.move_on_after(5):  # transports close in their own time
        while asyncio.all_tasks() != {asyncio.current_task()} or _sockets(before):
            gc.collect()
            await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not _sockets(before)


def _sockets(before: Counter[str]) -> list[str]:
    return [path for path in Counter(open_paths()) - before if path.startswith("socket")]


async def check_log(rig: Rig, run: aio.Run, case: Case) -> None:
    tree = case.tree(rig)
    case.arm(rig)
    await attempt(lambda: run.log_artifact(rig.artifact(tree, case.name)), case.error)
    await in_thread(rig.check_bucket)
    case.disarm(rig)
    artifact = await run.log_artifact(rig.artifact(tree, case.name))
    assert artifact.version == "v0"
    target = rig.fresh("target")
    await artifact.download(target)
    assert read_tree(target) == tree
    versions = "SELECT count(*) FROM versions JOIN collections c ON c.id = collection_id"
    assert await in_thread(rig.query, f"{versions} WHERE c.name = '{case.name}'") == [(1,)]


async def check_download(rig: Rig, run: aio.Run, case: Case) -> None:
    tree = case.tree(rig)
    target = rig.fresh("target")
    await run.log_artifact(rig.artifact(tree, case.name))
    artifact = await run.use_artifact(f"{case.name}:v0")
    case.arm(rig)
    await attempt(lambda: artifact.download(target), case.error)
    case.disarm(rig)
    if case.error is None:
        assert read_tree(target) == tree
    else:
        assert published(target).items() <= tree.items(), "wrong bytes under a final name"
    if case.error is Corrupt:
        # the object is marked as damaged: heal it, as the message says
        artifact = await run.log_artifact(rig.artifact(tree, case.name))
    await artifact.download(target)
    assert read_tree(target) == tree
    assert not temps_below(target)


async def attempt(work: Callable[[], Awaitable[object]], error: type[AsyncartError] | None) -> None:
    """It succeeds, or fails with exactly this class, in time."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            await work()
    except TimeoutError:
        raise AssertionError(f"not done after {DEADLINE_S} s") from None
    except AsyncartError as raised:
        if error is None or not isinstance(raised, error):
            raise
    else:
        assert error is None, f"no {error.__name__}"
