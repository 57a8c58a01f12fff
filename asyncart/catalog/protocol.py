"""What the rest of asyncart asks of the catalog: the product's sentences, each one transaction.

The catalog decides what exists. A version is there if, and only if, `commit_version` committed. Every
write is idempotent under its natural key (session id, object id, draft id, run id), so that an answer
that got lost may be asked for again. Nothing is ordered by a wall clock.

Errors: NotFound, Conflict, Invalid, Unavailable. "database is locked" never leaves the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ..model import (
    Chunk,
    CollectionInfo,
    Content,
    Extent,
    ManifestLocation,
    PendingUpload,
    RunInfo,
    RunState,
    UploadPart,
    VersionInfo,
)

SESSION_TTL_S = 900.0  # a writer renews its lease every third of this


class CollectionName(msgspec.Struct, frozen=True):
    """Names are checked by `asyncart.names` before they come here."""

    entity: str
    project: str
    name: str


class StoredObject(msgspec.Struct, frozen=True):
    """An object whose bytes are durable in the store, and the chunks of large files inside it."""

    object_id: str
    size: int
    chunks: tuple[tuple[Chunk, int], ...] = ()  # (chunk, its offset in the object)


class Draft(msgspec.Struct, frozen=True):
    """What `commit_version` turns into a version. `id` makes the commit idempotent."""

    id: str
    collection: CollectionName
    type: str
    digest: bytes
    size: int
    entry_count: int
    manifest: ManifestLocation | None  # None: "I believe that this digest is there already"
    object_ids: tuple[str, ...] = ()  # every object that the manifest's extents name
    description: str | None = None
    metadata: dict[str, Any] = {}
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    run_id: str | None = None
    ttl_s: float | None = None  # how long it is to live; None: for ever


class Committed(msgspec.Struct, frozen=True):
    version: VersionInfo
    is_new: bool  # False: the content was there, aliases moved, the version is otherwise untouched


class Retention(msgspec.Struct, frozen=True):
    """Which versions of a collection are not kept: those that every rule which is given lets go.

    `keep_last`: the newest so many stay. `older_than_s`: only what was logged last before that many
    seconds goes. `keep_aliased`: what an alias other than `latest` points to stays; else it goes with its
    aliases. The version that `latest` points to always stays.
    """

    keep_last: int | None = None
    older_than_s: float | None = None
    keep_aliased: bool = True


class Collected(msgspec.Struct, frozen=True):
    """What one collection pass did (or would do, with dry_run).

    `expired_versions` were deleted, because their time to live was over. `condemned` objects, of
    `condemned_bytes`, are deleted by a later pass.
    """

    condemned: int = 0
    condemned_bytes: int = 0
    deleted_object_ids: tuple[str, ...] = ()
    freed_bytes: int = 0
    expired_sessions: int = 0
    aborted_uploads: tuple[PendingUpload, ...] = ()
    expired_versions: tuple[VersionInfo, ...] = ()


class LooseObject(msgspec.Struct, frozen=True):
    """An object that may hold dead bytes: something was deleted since anybody looked.

    `number` is the catalog's own; `loosened_by` says what was deleted (see `mark_compact`).
    """

    number: int
    object_id: str
    entity: str
    size: int
    loosened_by: int


class Reaching(msgspec.Struct, frozen=True):
    """A live version, and those of the objects asked for that it reaches, by number."""

    version: VersionInfo
    objects: tuple[int, ...]


class Rewritten(msgspec.Struct, frozen=True):
    """The same version with its bytes elsewhere. `seen` is the manifest that was rewritten as `manifest`;
    `object_ids` is every object that the new one names."""

    version_id: str
    seen: ManifestLocation
    manifest: ManifestLocation
    object_ids: tuple[str, ...]


class Compaction(msgspec.Struct, frozen=True):
    """The live bytes of `emptied` objects lie in `objects` now: `contents` says which, `versions` know it.

    A version of `versions` that reached an emptied object names none of them any more.
    """

    emptied: tuple[str, ...]
    objects: tuple[StoredObject, ...]
    contents: tuple[Content, ...]
    versions: tuple[Rewritten, ...]


class Compacted(msgspec.Struct, frozen=True):
    """The versions that were moved (by id), and the emptied objects that nothing reaches any more."""

    version_ids: tuple[str, ...] = ()
    condemned: tuple[str, ...] = ()


class Catalog(Protocol):
    # runs and lineage
    async def create_run(self, run: RunInfo) -> None: ...
    async def finish_run(self, run_id: str, state: RunState) -> None: ...
    async def get_run(self, run_id: str) -> RunInfo: ...
    async def record_use(self, run_id: str, version_id: str) -> None:
        """The run consumed the version (idempotent). Outputs are recorded by commit_version."""

    async def used_by(self, version_id: str) -> list[RunInfo]: ...
    async def logged_by(self, version_id: str) -> list[RunInfo]:
        """Every run that logged this content, the first one first."""

    async def run_inputs(self, run_id: str) -> list[VersionInfo]: ...
    async def run_outputs(self, run_id: str) -> list[VersionInfo]: ...

    # sessions: the lease under which one writer uploads
    async def begin_session(self, entity: str) -> str:
        """A new session id. Stored content is shared within one entity, never across entities."""

    async def renew_session(self, session_id: str) -> None:
        """Conflict if the session is over, as with every verb that takes one: then log again."""

    async def end_session(self, session_id: str) -> None:
        """Give up the lease. Objects that it stored and uploads that it left stay until the lease would
        have run out, for the next attempt; then the collector takes what no version uses."""

    async def stored_contents(
        self, session_id: str, digests: Sequence[bytes]
    ) -> dict[bytes, Content]:
        """Those digests that are stored in undamaged objects, which stay while the session lives."""

    async def stored_chunks(self, session_id: str, digests: Sequence[bytes]) -> dict[bytes, Extent]:
        """The same for chunks of large files."""

    async def register_upload(
        self, session_id: str, object_id: str, token: str = "", resume_key: str = ""
    ) -> None:
        """Must precede the first byte. `resume_key` says which source it is made of.

        Again under the same session: sets token and resume key. Conflict if the object is another's.
        """

    async def note_parts(self, object_id: str, parts: Sequence[UploadPart]) -> None: ...
    async def adopt_upload(self, session_id: str, resume_key: str) -> PendingUpload | None:
        """The unfinished upload of that source whose session is over, now under this session.

        Over: ended, expired, or its process on this machine is gone. Only uploads with a token.
        """

    async def forget_upload(self, object_id: str) -> None:
        """It was aborted in the store."""

    async def add_stored(
        self, session_id: str, objects: Sequence[StoredObject], contents: Sequence[Content]
    ) -> None:
        """These objects are durable, and these contents lie in them: from now on others may use both.

        Contents may also reach into objects that were stored before. Those without extents are ignored.
        Conflict if an object was not registered, or was collected.
        """

    async def mark_damaged(self, object_ids: Sequence[str]) -> None:
        """They gave wrong bytes: never offered by stored_* again; versions that use them say so."""

    # versions
    async def find_version(self, collection: CollectionName, digest: bytes) -> VersionInfo | None:
        """The live version of the collection with this content."""

    async def commit_version(self, session_id: str, draft: Draft) -> Committed:
        """The version rule, in one transaction: see DESIGN section 3.

        Same draft id again, within a day: the same answer. Digest equals a live version's: that version, aliases and
        `latest` moved, lineage recorded; if it is damaged and the draft brings a manifest, that manifest
        replaces the damaged one, and every version that used the damaged objects keeps the new ones alive.
        Otherwise the next number. Conflict if an object of the draft is not stored, is damaged or was
        collected meanwhile: log again. A draft without manifest whose digest is not there (any more), or
        is damaged, is a Conflict too. Invalid if another type owns the collection, or another entity the
        session.
        """

    async def resolve(self, collection: CollectionName, selector: str) -> VersionInfo:
        """`selector` is an alias or `vN`."""

    async def get_version(self, version_id: str) -> VersionInfo: ...
    async def list_versions(
        self, collection: CollectionName, after: int | None = None, limit: int = 1000
    ) -> list[VersionInfo]:
        """Live versions, newest first, at most `limit` (1 or more); `after` is the number where the
        previous page ended."""

    async def list_collections(
        self, entity: str, project: str | None = None, type: str | None = None
    ) -> list[CollectionInfo]: ...

    async def update_version(
        self,
        version_id: str,
        *,
        description: str | msgspec.UnsetType | None = msgspec.UNSET,
        metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET,
        add_aliases: Sequence[str] = (),
        remove_aliases: Sequence[str] = (),
        tags: Sequence[str] | msgspec.UnsetType = msgspec.UNSET,
        ttl_s: float | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> VersionInfo:
        """What is not given stays. Aliases that are added move here, those that are removed are given up if
        they still point here (one that is both is added); `latest` stays where it is."""

    async def set_alias(
        self,
        version_id: str,
        alias: str,
        *,
        if_current: int | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> None:
        """Move the alias here; with `if_current`, only if it points to that number now (None: nowhere)."""

    async def remove_alias(self, collection: CollectionName, alias: str) -> None: ...
    async def delete_version(self, version_id: str, *, delete_aliases: bool = False) -> None:
        """Its number is never reused. Conflict while aliases other than `latest` point to it, unless
        delete_aliases; `latest` moves to the newest version that is left."""

    async def delete_collection(
        self,
        collection: CollectionName,
        *,
        delete_aliases: bool = False,
        expected: Sequence[int] | None = None,
        dry_run: bool = False,
    ) -> list[VersionInfo]:
        """All its versions (returned, newest first), and the name, which may come back with another type;
        its numbers go on. Conflict while aliases other than `latest` exist, unless delete_aliases; and if
        it has other versions than those of the numbers that are `expected`."""

    async def prune_versions(
        self,
        collection: CollectionName,
        retention: Retention,
        *,
        expected: Sequence[int] | None = None,
        dry_run: bool = False,
    ) -> list[VersionInfo]:
        """Delete what the rules do not keep, in one transaction; returned, newest first.

        Invalid without `keep_last` and `older_than_s`. Conflict if others would go than are `expected`."""

    # collection of garbage, in two phases (DESIGN section 9)
    async def collect(self, *, dry_run: bool = False) -> Collected:
        """Delete the versions whose time to live is over, unless an alias other than `latest` points
        to them. Condemn what nothing reaches; name what was condemned before and is still unreachable.

        Index rows of `deleted_object_ids` are gone when it returns. Those that are `aborted_uploads` too
        are first aborted in the store and forgotten (`forget_upload`); then delete the bytes of all, then
        `forget_objects`. Whatever is not forgotten is named again by the next pass.
        """

    async def forget_objects(self, object_ids: Sequence[str]) -> None:
        """Their bytes are gone from the store."""

    # compaction: live bytes leave objects that are mostly dead
    async def loose_objects(self, after: int = 0, limit: int = 1000) -> list[LooseObject]:
        """Objects that may hold dead bytes, by number, from after that number on; none that is damaged,
        condemned, or reached by a damaged version (which may need more of it than its manifest says)."""

    async def versions_reaching(self, numbers: Sequence[int]) -> list[Reaching]:
        """The live versions that keep these objects, by number, alive."""

    async def mark_compact(self, looked_at: Sequence[LooseObject]) -> None:
        """They are worth no compaction, unless something was deleted since they were asked for."""

    async def compact(self, session_id: str, compaction: Compaction) -> Compacted:
        """Move versions to their new manifests and objects, and condemn what nothing reaches then, in one
        transaction. The new objects were stored by this session.

        A version that was deleted, found damaged or given another manifest meanwhile stays as it is, and
        keeps what it needs. Conflict if a new object is not there. Again: the same versions.
        """

    # facts about the store, probed once (DESIGN section 7)
    async def get_fact(self, key: str) -> str | None: ...
    async def set_fact(self, key: str, value: str) -> None: ...
    async def aclose(self) -> None: ...
