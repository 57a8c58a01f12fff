"""Give back the space of what nothing reaches any more, beside writers.

The catalog decides in two passes (see `catalog.collector`): what one pass condemns, the next one dooms,
unless a session that was told of it is still alive. So two passes are made here, and the bytes of deleted
versions are gone at once when nobody writes. For what is doomed the index rows go first, the bytes second,
the record of it last: whoever is killed in between leaves work to the next pass, never a dangling row.

Versions whose time to live is over are deleted first. At the end, what is mostly dead is compacted (see
`compaction`); the objects that this empties are deleted by the next collection, not by this one, so that
whoever reads by an old manifest has until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from ..catalog.protocol import Catalog, Collected
from ..engine.tasks import Threads
from ..model import PendingUpload, object_key
from ..net.budget import Budget
from ..stores.protocol import Store
from . import compaction
from .workspace import Workspace

BATCH_OBJECTS = 1000  # what one delete request of S3 takes
PASSES = 2  # one condemns, one dooms


class GarbageReport(msgspec.Struct, frozen=True):
    """What a collection gave back (or would, with `is_dry_run`).

    `waiting_objects` are reached by nothing, but a session may still know of them: a later collection
    deletes them. A dry run makes one pass, so there they are all that is not doomed yet. `temp_files`
    were left behind by killed writers. `expired_versions` are full names.

    `compacted_objects` of `compacted_bytes` were mostly dead: `copied_bytes` of them live on in new ones,
    the rest is given back by the next collection. `rewritten_versions` point to the new ones now.
    """

    deleted_objects: int = 0
    freed_bytes: int = 0
    waiting_objects: int = 0
    aborted_uploads: int = 0
    expired_sessions: int = 0
    temp_files: int = 0
    is_dry_run: bool = False
    waiting_bytes: int = 0
    expired_versions: tuple[str, ...] = ()
    compacted_objects: int = 0
    compacted_bytes: int = 0
    copied_bytes: int = 0
    rewritten_versions: tuple[str, ...] = ()


@runtime_checkable
class Sweepable(Protocol):
    """A store that can hold what a killed process left behind (a local one)."""

    async def sweep(self) -> int: ...


@runtime_checkable
class Collecting(Protocol):
    """A catalog that deletes the bytes, too: a server's. Its report is a GarbageReport, as builtins."""

    async def collect_garbage(
        self, *, dry_run: bool = False, compact: bool = True
    ) -> dict[str, Any]: ...


async def collect(
    workspace: Workspace, *, dry_run: bool = False, compact: bool = True
) -> GarbageReport:
    """Delete from the store what no version and no session reaches. Run again, it continues."""
    catalog, store = await workspace.catalog(), await workspace.store()
    if isinstance(catalog, Collecting):
        done = await catalog.collect_garbage(dry_run=dry_run, compact=compact)
        return msgspec.convert(done, GarbageReport)
    report = await collect_from(catalog, store, dry_run=dry_run)
    if not compact:
        return report
    return await compacted(
        report, catalog, store, workspace.budget, workspace.threads, dry_run=dry_run
    )


async def compacted(
    report: GarbageReport,
    catalog: Catalog,
    store: Store,
    budget: Budget,
    threads: Threads,
    *,
    dry_run: bool = False,
) -> GarbageReport:
    """Compact what is mostly dead, and add that to the report of the collection before it."""
    done = await compaction.compact(catalog, store, budget, threads, dry_run=dry_run)
    return msgspec.structs.replace(
        report,
        compacted_objects=done.objects,
        compacted_bytes=done.nbytes,
        copied_bytes=done.copied_bytes,
        rewritten_versions=done.versions,
    )


async def collect_from(catalog: Catalog, store: Store, *, dry_run: bool = False) -> GarbageReport:
    """Without compaction, for whoever holds the two without a workspace: a server."""
    if dry_run:
        return _report([await catalog.collect(dry_run=True)], is_dry_run=True)
    passes = []
    for _ in range(PASSES):
        collected = await catalog.collect()
        await _delete(catalog, store, collected)
        passes.append(collected)
        if not collected.condemned:
            break
    temp_files = await store.sweep() if isinstance(store, Sweepable) else 0
    return msgspec.structs.replace(_report(passes), temp_files=temp_files)


async def _delete(catalog: Catalog, store: Store, collected: Collected) -> None:
    for upload in collected.aborted_uploads:
        await _abort(store, upload)
    object_ids = collected.deleted_object_ids
    for start in range(0, len(object_ids), BATCH_OBJECTS):
        batch = object_ids[start : start + BATCH_OBJECTS]
        await store.delete([object_key(object_id) for object_id in batch])
        await catalog.forget_objects(batch)


async def _abort(store: Store, upload: PendingUpload) -> None:
    unfinished = await store.resume_upload(object_key(upload.object_id), upload.store_token)
    if unfinished is not None:
        await unfinished.abort()


def _report(passes: Sequence[Collected], *, is_dry_run: bool = False) -> GarbageReport:
    condemned = sum(collected.condemned for collected in passes)
    # What a pass after the first one dooms is what the pass before it condemned.
    doomed_later = sum(len(collected.deleted_object_ids) for collected in passes[1:])
    condemned_bytes = sum(collected.condemned_bytes for collected in passes)
    freed_later = sum(collected.freed_bytes for collected in passes[1:])
    return GarbageReport(
        deleted_objects=sum(len(collected.deleted_object_ids) for collected in passes),
        freed_bytes=sum(collected.freed_bytes for collected in passes),
        waiting_objects=max(0, condemned - doomed_later),
        aborted_uploads=sum(len(collected.aborted_uploads) for collected in passes),
        expired_sessions=sum(collected.expired_sessions for collected in passes),
        is_dry_run=is_dry_run,
        waiting_bytes=max(0, condemned_bytes - freed_later),
        expired_versions=tuple(
            version.qualified_name for collected in passes for version in collected.expired_versions
        ),
    )
