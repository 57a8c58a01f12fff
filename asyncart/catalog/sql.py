"""The catalog over a database: each verb is one plain function run as one transaction.

What the verbs promise stands in `protocol`; what they do, in `runs`, `sessions`, `contents`,
`versions`, `commits`, `updates`, `deletion`, `collector`, `compaction` and `facts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from asyncart.model import CollectionInfo, Content, Extent, RunInfo, RunState, VersionInfo

from ..model import PendingUpload, UploadPart
from . import (
    collector,
    commits,
    compaction,
    deletion,
    facts,
    owner,
    runs,
    sessions,
    updates,
    versions,
)
from . import contents as contents_module
from .protocol import (
    Collected,
    CollectionName,
    Committed,
    Compacted,
    Compaction,
    Draft,
    LooseObject,
    Reaching,
    Retention,
    StoredObject,
)
from .transactions import Database


class SqlCatalog:
    """`protocol.Catalog` over SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # runs and lineage

    async def create_run(self, run: RunInfo) -> None:
        await self.database.write(runs.create_run, run)

    async def finish_run(self, run_id: str, state: RunState) -> None:
        await self.database.write(runs.finish_run, run_id, state)

    async def get_run(self, run_id: str) -> RunInfo:
        return await self.database.read(runs.get_run, run_id)

    async def record_use(self, run_id: str, version_id: str) -> None:
        await self.database.write(runs.record_use, run_id, version_id)

    async def used_by(self, version_id: str) -> list[RunInfo]:
        return await self.database.read(runs.used_by, version_id)

    async def logged_by(self, version_id: str) -> list[RunInfo]:
        return await self.database.read(runs.logged_by, version_id)

    async def run_inputs(self, run_id: str) -> list[VersionInfo]:
        return await self.database.read(runs.run_inputs, run_id)

    async def run_outputs(self, run_id: str) -> list[VersionInfo]:
        return await self.database.read(runs.run_outputs, run_id)

    # sessions, uploads, what is stored

    async def begin_session(self, entity: str) -> str:
        holder = owner.this_process() if self.database.owner_is_process else ""
        return await self.database.write(sessions.begin_session, entity, holder)

    async def renew_session(self, session_id: str) -> None:
        await self.database.write(sessions.renew_session, session_id)

    async def end_session(self, session_id: str) -> None:
        await self.database.write(sessions.end_session, session_id)

    async def stored_contents(
        self, session_id: str, digests: Sequence[bytes]
    ) -> dict[bytes, Content]:
        return await self.database.read(contents_module.stored_contents, session_id, digests)

    async def stored_chunks(self, session_id: str, digests: Sequence[bytes]) -> dict[bytes, Extent]:
        return await self.database.read(contents_module.stored_chunks, session_id, digests)

    async def register_upload(
        self, session_id: str, object_id: str, token: str = "", resume_key: str = ""
    ) -> None:
        await self.database.write(
            sessions.register_upload, session_id, object_id, token, resume_key
        )

    async def note_parts(self, object_id: str, parts: Sequence[UploadPart]) -> None:
        await self.database.write(sessions.note_parts, object_id, parts)

    async def adopt_upload(self, session_id: str, resume_key: str) -> PendingUpload | None:
        return await self.database.write(sessions.adopt_upload, session_id, resume_key)

    async def forget_upload(self, object_id: str) -> None:
        await self.database.write(sessions.forget_upload, object_id)

    async def add_stored(
        self, session_id: str, objects: Sequence[StoredObject], contents: Sequence[Content]
    ) -> None:
        await self.database.write(contents_module.add_stored, session_id, objects, contents)

    async def mark_damaged(self, object_ids: Sequence[str]) -> None:
        await self.database.write_alone(contents_module.mark_damaged, object_ids)

    # versions

    async def find_version(self, collection: CollectionName, digest: bytes) -> VersionInfo | None:
        return await self.database.read(versions.find_version, collection, digest)

    async def commit_version(self, session_id: str, draft: Draft) -> Committed:
        return await self.database.write(commits.commit_version, session_id, draft)

    async def resolve(self, collection: CollectionName, selector: str) -> VersionInfo:
        return await self.database.read(versions.resolve, collection, selector)

    async def get_version(self, version_id: str) -> VersionInfo:
        return await self.database.read(versions.get_version, version_id)

    async def list_versions(
        self, collection: CollectionName, after: int | None = None, limit: int = 1000
    ) -> list[VersionInfo]:
        return await self.database.read(versions.list_versions, collection, after, limit)

    async def list_collections(
        self, entity: str, project: str | None = None, type: str | None = None
    ) -> list[CollectionInfo]:
        return await self.database.read(versions.list_collections, entity, project, type)

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
        return await self.database.write(
            updates.update_version,
            version_id,
            description=description,
            metadata=metadata,
            add_aliases=add_aliases,
            remove_aliases=remove_aliases,
            tags=tags,
            ttl_s=ttl_s,
        )

    async def set_alias(
        self,
        version_id: str,
        alias: str,
        *,
        if_current: int | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> None:
        await self.database.write(updates.set_alias, version_id, alias, if_current=if_current)

    async def remove_alias(self, collection: CollectionName, alias: str) -> None:
        await self.database.write(updates.remove_alias, collection, alias)

    async def delete_version(self, version_id: str, *, delete_aliases: bool = False) -> None:
        await self.database.write(
            deletion.delete_version, version_id, delete_aliases=delete_aliases
        )

    async def delete_collection(
        self,
        collection: CollectionName,
        *,
        delete_aliases: bool = False,
        expected: Sequence[int] | None = None,
        dry_run: bool = False,
    ) -> list[VersionInfo]:
        run = self.database.read if dry_run else self.database.write
        return await run(
            deletion.delete_collection,
            collection,
            delete_aliases=delete_aliases,
            expected=expected,
            dry_run=dry_run,
        )

    async def prune_versions(
        self,
        collection: CollectionName,
        retention: Retention,
        *,
        expected: Sequence[int] | None = None,
        dry_run: bool = False,
    ) -> list[VersionInfo]:
        run = self.database.read if dry_run else self.database.write
        return await run(
            deletion.prune_versions, collection, retention, expected=expected, dry_run=dry_run
        )

    # collection of garbage

    async def collect(self, *, dry_run: bool = False) -> Collected:
        collected = await self.database.write_alone(collector.condemn_and_doom, dry_run)
        if not dry_run:
            for object_ in await self.database.read(collector.doomed_listings):
                await self.database.write(collector.remove_index_rows, object_)
            while await self.database.write(commits.forget_drafts):
                pass
        return collected

    async def forget_objects(self, object_ids: Sequence[str]) -> None:
        await self.database.write(collector.forget_objects, object_ids)

    # compaction

    async def loose_objects(self, after: int = 0, limit: int = 1000) -> list[LooseObject]:
        return await self.database.read(compaction.loose_objects, after, limit)

    async def versions_reaching(self, numbers: Sequence[int]) -> list[Reaching]:
        return await self.database.read(compaction.versions_reaching, numbers)

    async def mark_compact(self, looked_at: Sequence[LooseObject]) -> None:
        await self.database.write(compaction.mark_compact, looked_at)

    async def compact(self, session_id: str, compaction_: Compaction) -> Compacted:
        return await self.database.write_alone(compaction.compact, session_id, compaction_)

    # facts

    async def get_fact(self, key: str) -> str | None:
        return await self.database.read(facts.get_fact, key)

    async def set_fact(self, key: str, value: str) -> None:
        await self.database.write(facts.set_fact, key, value)

    async def aclose(self) -> None:
        await self.database.aclose()
