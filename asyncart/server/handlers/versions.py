"""Versions, their aliases, and collections of them."""

from __future__ import annotations

from ... import wire
from ...catalog import grants, versions
from ...catalog.protocol import CollectionName, Draft, Retention
from ...model import VersionInfo
from .. import urls
from ..context import Caller
from ..routing import handler

Named = (
    wire.FindVersion
    | wire.CommitVersion
    | wire.Resolve
    | wire.ListVersions
    | wire.RemoveAlias
    | wire.DeleteCollection
    | wire.PruneVersions
)


def _name(request: Named) -> CollectionName:
    return CollectionName(request.entity, request.project, request.collection)


@handler("find_version")
async def find_version(caller: Caller, request: wire.FindVersion) -> wire.Found:
    found = await caller.context.catalog.find_version(_name(request), request.digest)
    return wire.Found(version=found)


@handler("commit_version")
async def commit_version(caller: Caller, request: wire.CommitVersion) -> wire.CommitAnswer:
    draft = Draft(
        id=request.draft_id,
        collection=_name(request),
        type=request.type,
        digest=request.digest,
        size=request.size,
        entry_count=request.entry_count,
        manifest=request.manifest,
        object_ids=tuple(request.object_ids),
        description=request.description,
        metadata=request.metadata,
        aliases=tuple(request.aliases),
        tags=tuple(request.tags),
        run_id=request.run_id,
        ttl_s=request.ttl_s,
    )
    committed = await caller.context.database.write(
        grants.commit_version,
        request.session_id,
        draft,
        caller.principal.user_id,
        caller.may_read,
    )
    return wire.CommitAnswer(version=committed.version, is_new=committed.is_new)


@handler("resolve")
async def resolve(caller: Caller, request: wire.Resolve) -> wire.Resolved:
    version = await caller.context.catalog.resolve(_name(request), request.selector)
    if not request.urls:
        return wire.Resolved(version=version)
    return wire.Resolved(version=version, urls=await _urls(caller, version))


async def _urls(caller: Caller, version: VersionInfo) -> list[wire.SignedUrl]:
    """Of its manifest, and of as many objects as one answer holds. Who may read it may have them all."""
    objects = await caller.context.database.read(grants.objects_of, version.id, wire.MAX_URLS - 1)
    wanted = [
        wire.WantedUrl(object_id=object_id, method=wire.UrlMethod.GET)
        for object_id in (version.manifest.object_id, *objects)
    ]
    return await urls.sign(caller, wanted)


@handler("get_version")
async def get_version(caller: Caller, request: wire.GetVersion) -> wire.VersionAnswer:
    return wire.VersionAnswer(version=await caller.context.catalog.get_version(request.version_id))


@handler("list_versions")
async def list_versions(caller: Caller, request: wire.ListVersions) -> wire.Versions:
    found = await caller.context.catalog.list_versions(
        _name(request), request.after, request.limit + 1
    )
    page = found[: request.limit]
    return wire.Versions(versions=page, next=page[-1].number if len(found) > len(page) else None)


@handler("list_collections")
async def list_collections(caller: Caller, request: wire.ListCollections) -> wire.Collections:
    found = await caller.context.database.read(
        versions.list_collections,
        request.entity,
        request.project,
        request.type,
        projects=caller.projects,
        after=request.after,
        limit=request.limit + 1,
    )
    page = found[: request.limit]
    last = f"{page[-1].project}/{page[-1].name}" if len(found) > len(page) else None
    return wire.Collections(collections=page, next=last)


@handler("update_version")
async def update_version(caller: Caller, request: wire.UpdateVersion) -> wire.VersionAnswer:
    version = await caller.context.catalog.update_version(
        request.version_id,
        description=request.description,
        metadata=request.metadata,
        add_aliases=request.add_aliases or (),
        remove_aliases=request.remove_aliases or (),
        tags=request.tags,
        ttl_s=request.ttl_s,
    )
    return wire.VersionAnswer(version=version)


@handler("set_alias")
async def set_alias(caller: Caller, request: wire.SetAlias) -> wire.Done:
    await caller.context.catalog.set_alias(
        request.version_id, request.alias, if_current=request.if_current
    )
    return wire.Done()


@handler("remove_alias")
async def remove_alias(caller: Caller, request: wire.RemoveAlias) -> wire.Done:
    await caller.context.catalog.remove_alias(_name(request), request.alias)
    return wire.Done()


@handler("delete_version")
async def delete_version(caller: Caller, request: wire.DeleteVersion) -> wire.Done:
    await caller.context.catalog.delete_version(
        request.version_id, delete_aliases=request.delete_aliases
    )
    return wire.Done()


@handler("delete_collection")
async def delete_collection(caller: Caller, request: wire.DeleteCollection) -> wire.Deleted:
    deleted = await caller.context.catalog.delete_collection(
        _name(request),
        delete_aliases=request.delete_aliases,
        expected=request.expected,
        dry_run=request.dry_run,
    )
    return wire.Deleted(versions=deleted)


@handler("prune_versions")
async def prune_versions(caller: Caller, request: wire.PruneVersions) -> wire.Deleted:
    retention = Retention(request.keep_last, request.older_than_s, request.keep_aliased)
    deleted = await caller.context.catalog.prune_versions(
        _name(request), retention, expected=request.expected, dry_run=request.dry_run
    )
    return wire.Deleted(versions=deleted)
