"""The catalog of a server: the same verbs, as calls of `wire`.

Promised: every verb does what the protocol says, and raises what the server's catalog raises. Long
questions are split and pages are followed. What nobody waits for travels with the next call (see
`net.control`): the beginning of a session with its first question, a small object that is stored, the
session's end. So an artifact of a few small files takes four requests.

Of what is stored, only objects of less than `SMALL_BYTES` are deferred: they cost little to send again when
this process is killed before the next call. A session that asked for nothing is never heard of.

Refused: what only the owner of the database does (compaction, forgetting objects): the server does it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import msgspec

from asyncart import wire
from asyncart.errors import Invalid, NotFound
from asyncart.model import (
    CollectionInfo,
    Content,
    Extent,
    PendingUpload,
    RunInfo,
    RunState,
    UploadPart,
    VersionInfo,
)
from asyncart.net.control import ServerClient

from .owner import this_process
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

SMALL_BYTES = 1 << 20  # to send that again takes as long as the request that is saved


class HttpCatalog:
    """Closing it closes the client."""

    def __init__(self, client: ServerClient) -> None:
        self.client = client
        self._session_of: dict[str, str] = {}  # objects that sessions of ours have begun
        self._facts: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<HttpCatalog {self.client.origin}>"

    async def aclose(self) -> None:
        """Say what was deferred, and close the connections."""
        await self.client.aclose()

    # runs and lineage

    async def create_run(self, run: RunInfo) -> None:
        await self.client.call("create_run", wire.CreateRun(run=run))

    async def finish_run(self, run_id: str, state: RunState) -> None:
        await self.client.call("finish_run", wire.FinishRun(run_id=run_id, state=state))

    async def get_run(self, run_id: str) -> RunInfo:
        answer = await self.client.ask(wire.RunAnswer, "get_run", wire.GetRun(run_id=run_id))
        return answer.run

    async def record_use(self, run_id: str, version_id: str) -> None:
        await self.client.call("record_use", wire.RecordUse(run_id=run_id, version_id=version_id))

    async def used_by(self, version_id: str) -> list[RunInfo]:
        request = wire.UsedBy(version_id=version_id)
        return (await self.client.ask(wire.Runs, "used_by", request)).runs

    async def logged_by(self, version_id: str) -> list[RunInfo]:
        request = wire.LoggedBy(version_id=version_id)
        return (await self.client.ask(wire.Runs, "logged_by", request)).runs

    async def run_inputs(self, run_id: str) -> list[VersionInfo]:
        request = wire.RunInputs(run_id=run_id)
        return (await self.client.ask(wire.RunVersions, "run_inputs", request)).versions

    async def run_outputs(self, run_id: str) -> list[VersionInfo]:
        request = wire.RunOutputs(run_id=run_id)
        return (await self.client.ask(wire.RunVersions, "run_outputs", request)).versions

    # sessions

    async def begin_session(self, entity: str) -> str:
        session_id = os.urandom(16).hex()
        request = wire.BeginSession(session_id=session_id, entity=entity, owner=this_process())
        await self.client.defer("begin_session", request, session_id)
        return session_id

    async def renew_session(self, session_id: str) -> None:
        await self.client.call(
            "renew_session", wire.RenewSession(session_id=session_id), session_id
        )

    async def end_session(self, session_id: str) -> None:
        """Raises what was deferred and is refused now; the session is ended nevertheless."""
        client, request = self.client, wire.EndSession(session_id=session_id)
        waiting = client.deferred(session_id)
        for object_id in [o for o, owner in self._session_of.items() if owner == session_id]:
            del self._session_of[object_id]
        # What was begun but never carried is not known there. If it was carried, and still waits, somebody
        # cancelled while its beginning was under way: perhaps it is known.
        is_begun = waiting != ["begin_session"]
        is_over = not is_begun and not client.was_carried(session_id)
        try:
            if is_begun and waiting:
                await client.call("end_session", request, session_id)
                is_over = True
        finally:
            client.drop_scope(session_id)
            if not is_over:
                await client.defer_optional("end_session", request)

    async def stored_contents(
        self, session_id: str, digests: Sequence[bytes]
    ) -> dict[bytes, Content]:
        found: dict[bytes, Content] = {}
        for some in _slices(list(dict.fromkeys(digests)), wire.MAX_DIGESTS):
            request = wire.StoredContents(session_id=session_id, digests=some)
            answer = await self.client.ask(wire.Contents, "stored_contents", request, session_id)
            found.update((content.digest, content) for content in answer.contents)
        return found

    async def stored_chunks(self, session_id: str, digests: Sequence[bytes]) -> dict[bytes, Extent]:
        found: dict[bytes, Extent] = {}
        for some in _slices(list(dict.fromkeys(digests)), wire.MAX_DIGESTS):
            request = wire.StoredChunks(session_id=session_id, digests=some)
            answer = await self.client.ask(wire.Chunks, "stored_chunks", request, session_id)
            found.update((some[position], extent) for position, extent in answer.chunks)
        return found

    async def register_upload(
        self, session_id: str, object_id: str, token: str = "", resume_key: str = ""
    ) -> None:
        request = _registration(session_id, object_id, token, resume_key)
        answer = await self.client.ask(wire.Registered, "register_upload", request, session_id)
        self._registered(session_id, object_id, answer)

    async def adopt_or_register(
        self, session_id: str, object_id: str, resume_key: str
    ) -> PendingUpload | None:
        """`adopt_upload`; where there is nothing to adopt, `object_id` is registered instead."""
        adopted, registered = await self.client.calls(
            [
                ("adopt_upload", wire.AdoptUpload(session_id=session_id, resume_key=resume_key)),
                ("register_upload", _registration(session_id, object_id, "", resume_key)),
            ],
            session_id,
        )
        assert isinstance(adopted, wire.Adopted)
        assert isinstance(registered, wire.Registered)
        if adopted.upload is None:
            self._registered(session_id, object_id, registered)
            return None
        self._session_of[adopted.upload.object_id] = session_id
        forget = wire.ForgetUpload(object_id=object_id)
        await self.client.defer("forget_upload", forget, session_id)
        return adopted.upload

    async def adopt_upload(self, session_id: str, resume_key: str) -> PendingUpload | None:
        request = wire.AdoptUpload(session_id=session_id, resume_key=resume_key)
        answer = await self.client.ask(wire.Adopted, "adopt_upload", request, session_id)
        if answer.upload is not None:
            self._session_of[answer.upload.object_id] = session_id
        return answer.upload

    async def note_parts(self, object_id: str, parts: Sequence[UploadPart]) -> None:
        session_id = self._session_of.get(object_id, "")
        if not session_id:
            raise NotFound(f"there is no upload of object {object_id} by a session of this client")
        request = wire.NoteParts(session_id=session_id, object_id=object_id, parts=list(parts))
        # Not deferred: what is not noted when this process is killed, the next attempt sends again. Parts
        # that arrive meanwhile travel together (`engine.objects`).
        await self.client.call("note_parts", request, session_id)

    async def forget_upload(self, object_id: str) -> None:
        session_id = self._session_of.pop(object_id, "")
        await self.client.call("forget_upload", wire.ForgetUpload(object_id=object_id), session_id)

    async def add_stored(
        self, session_id: str, objects: Sequence[StoredObject], contents: Sequence[Content]
    ) -> None:
        request = wire.AddStored(
            session_id=session_id,
            objects=[
                wire.NewObject(object_id=each.object_id, size=each.size, chunks=list(each.chunks))
                for each in objects
            ],
            contents=list(contents),
        )
        if sum(each.size for each in objects) < SMALL_BYTES:
            await self.client.defer("add_stored", request, session_id)
        else:
            await self.client.call("add_stored", request, session_id)

    async def mark_damaged(self, object_ids: Sequence[str]) -> None:
        for some in _slices(list(object_ids), wire.MAX_COMPLAINTS) if object_ids else ():
            await self.client.call("mark_damaged", wire.MarkDamaged(object_ids=some))

    # versions

    async def find_version(self, collection: CollectionName, digest: bytes) -> VersionInfo | None:
        request = wire.FindVersion(**_named(collection), digest=digest)
        return (await self.client.ask(wire.Found, "find_version", request)).version

    async def commit_version(self, session_id: str, draft: Draft) -> Committed:
        request = wire.CommitVersion(
            session_id=session_id,
            draft_id=draft.id,
            **_named(draft.collection),
            type=draft.type,
            digest=draft.digest,
            size=draft.size,
            entry_count=draft.entry_count,
            manifest=draft.manifest,
            object_ids=list(draft.object_ids),
            description=draft.description,
            metadata=draft.metadata,
            aliases=list(draft.aliases),
            tags=list(draft.tags),
            run_id=draft.run_id,
            ttl_s=draft.ttl_s,
        )
        answer = await self.client.ask(wire.CommitAnswer, "commit_version", request, session_id)
        return Committed(answer.version, answer.is_new)

    async def resolve(self, collection: CollectionName, selector: str) -> VersionInfo:
        request = wire.Resolve(**_named(collection), selector=selector, urls=True)
        answer = await self.client.ask(wire.Resolved, "resolve", request)
        self.client.urls.keep(answer.urls)
        return answer.version

    async def get_version(self, version_id: str) -> VersionInfo:
        request = wire.GetVersion(version_id=version_id)
        return (await self.client.ask(wire.VersionAnswer, "get_version", request)).version

    async def list_versions(
        self, collection: CollectionName, after: int | None = None, limit: int = 1000
    ) -> list[VersionInfo]:
        found: list[VersionInfo] = []
        while True:
            request = wire.ListVersions(
                **_named(collection), after=after, limit=min(limit - len(found), wire.MAX_PAGE)
            )
            page = await self.client.ask(wire.Versions, "list_versions", request)
            found += page.versions
            after = page.next
            if after is None or len(found) == limit:
                return found

    async def list_collections(
        self, entity: str, project: str | None = None, type: str | None = None
    ) -> list[CollectionInfo]:
        found: list[CollectionInfo] = []
        after: str | None = None
        while True:
            request = wire.ListCollections(entity=entity, project=project, type=type, after=after)
            page = await self.client.ask(wire.Collections, "list_collections", request)
            found += page.collections
            after = page.next
            if after is None:
                return found

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
        request = wire.UpdateVersion(
            version_id=version_id,
            description=description,
            metadata=metadata,
            add_aliases=list(add_aliases) or msgspec.UNSET,
            remove_aliases=list(remove_aliases) or msgspec.UNSET,
            tags=tags if isinstance(tags, msgspec.UnsetType) else list(tags),
            ttl_s=ttl_s,
        )
        return (await self.client.ask(wire.VersionAnswer, "update_version", request)).version

    async def set_alias(
        self,
        version_id: str,
        alias: str,
        *,
        if_current: int | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> None:
        request = wire.SetAlias(version_id=version_id, alias=alias, if_current=if_current)
        await self.client.call("set_alias", request)

    async def remove_alias(self, collection: CollectionName, alias: str) -> None:
        request = wire.RemoveAlias(**_named(collection), alias=alias)
        await self.client.call("remove_alias", request)

    async def delete_version(self, version_id: str, *, delete_aliases: bool = False) -> None:
        request = wire.DeleteVersion(version_id=version_id, delete_aliases=delete_aliases)
        await self.client.call("delete_version", request)

    async def delete_collection(
        self,
        collection: CollectionName,
        *,
        delete_aliases: bool = False,
        expected: Sequence[int] | None = None,
        dry_run: bool = False,
    ) -> list[VersionInfo]:
        request = wire.DeleteCollection(
            **_named(collection),
            delete_aliases=delete_aliases,
            expected=None if expected is None else list(expected),
            dry_run=dry_run,
        )
        return (await self.client.ask(wire.Deleted, "delete_collection", request)).versions

    async def prune_versions(
        self,
        collection: CollectionName,
        retention: Retention,
        *,
        expected: Sequence[int] | None = None,
        dry_run: bool = False,
    ) -> list[VersionInfo]:
        request = wire.PruneVersions(
            **_named(collection),
            keep_last=retention.keep_last,
            older_than_s=retention.older_than_s,
            keep_aliased=retention.keep_aliased,
            expected=None if expected is None else list(expected),
            dry_run=dry_run,
        )
        return (await self.client.ask(wire.Deleted, "prune_versions", request)).versions

    # garbage: the server collects it, with the bytes

    async def collect_garbage(
        self, *, dry_run: bool = False, compact: bool = True
    ) -> dict[str, Any]:
        """Have the server do what `aio.collect` does: its report, as builtins."""
        request = wire.CollectGarbage(dry_run=dry_run, compact=compact)
        return (await self.client.ask(wire.Garbage, "collect_garbage", request)).report

    async def collect(self, *, dry_run: bool = False) -> Collected:
        return self._refuse()

    async def forget_objects(self, object_ids: Sequence[str]) -> None:
        self._refuse()

    async def loose_objects(self, after: int = 0, limit: int = 1000) -> list[LooseObject]:
        return self._refuse()

    async def versions_reaching(self, numbers: Sequence[int]) -> list[Reaching]:
        return self._refuse()

    async def mark_compact(self, looked_at: Sequence[LooseObject]) -> None:
        self._refuse()

    async def compact(self, session_id: str, compaction: Compaction) -> Compacted:
        return self._refuse()

    def _refuse(self) -> NoReturn:
        raise Invalid(
            f"{self.client.origin}: garbage is collected by the server itself: use collect_garbage"
        )

    # facts about a store are the server's; what is noted here lasts as long as this object

    async def get_fact(self, key: str) -> str | None:
        return self._facts.get(key)

    async def set_fact(self, key: str, value: str) -> None:
        self._facts[key] = value

    def _registered(self, session_id: str, object_id: str, answer: wire.Registered) -> None:
        self._session_of[object_id] = session_id
        if answer.url is not None:
            self.client.urls.keep([answer.url])


def _registration(
    session_id: str, object_id: str, token: str, resume_key: str
) -> wire.RegisterUpload:
    """`want_url` where the whole object may be sent next: no upload in parts was begun."""
    return wire.RegisterUpload(
        session_id=session_id,
        object_id=object_id,
        token=token,
        resume_key=resume_key,
        want_url=not token,
    )


def _named(collection: CollectionName) -> dict[str, str]:
    return {
        "entity": collection.entity,
        "project": collection.project,
        "collection": collection.name,
    }


def _slices(values: list[Any], size: int) -> Iterator[list[Any]]:
    """One at least: the session has to be alive even for a question about nothing."""
    for start in range(0, max(1, len(values)), size):
        yield values[start : start + size]
