"""Sessions, and what is stored: the lease under which one writer uploads."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.engine import Connection

from ... import wire
from ...catalog import grants
from ...catalog.protocol import StoredObject
from ...errors import Conflict
from ...model import object_key
from ..context import Caller
from ..routing import handler
from ..storing import of_store, sizes


@handler("begin_session")
async def begin_session(caller: Caller, request: wire.BeginSession) -> wire.Done:
    await caller.context.database.write(
        grants.begin_session,
        request.session_id,
        request.entity,
        request.project or caller.bound_to,
        caller.principal.user_id,
        request.owner,
    )
    return wire.Done()


@handler("renew_session")
async def renew_session(caller: Caller, request: wire.RenewSession) -> wire.Done:
    await caller.context.catalog.renew_session(request.session_id)
    return wire.Done()


@handler("end_session")
async def end_session(caller: Caller, request: wire.EndSession) -> wire.Done:
    await caller.context.catalog.end_session(request.session_id)
    return wire.Done()


@handler("stored_contents")
async def stored_contents(caller: Caller, request: wire.StoredContents) -> wire.Contents:
    found = await caller.context.database.read(
        grants.stored_contents, request.session_id, request.digests, caller.may_read
    )
    return wire.Contents(contents=list(found.values()))


@handler("stored_chunks")
async def stored_chunks(caller: Caller, request: wire.StoredChunks) -> wire.Chunks:
    found = await caller.context.database.read(
        grants.stored_chunks, request.session_id, request.digests, caller.may_read
    )
    where = ((index, found.get(digest)) for index, digest in enumerate(request.digests))
    return wire.Chunks(chunks=[(index, extent) for index, extent in where if extent is not None])


@handler("add_stored")
async def add_stored(caller: Caller, request: wire.AddStored) -> wire.Done:
    there = await _sizes(caller, request.objects)
    await caller.context.database.write(
        _add_stored, request, there, caller.principal.user_id, caller.may_read
    )
    return wire.Done()


async def _sizes(caller: Caller, objects: list[wire.NewObject]) -> Mapping[str, int] | None:
    """Of those that the store has, by key; None if nobody is to ask.

    Asked before it is known whether the caller may, so that no transaction waits for the store. What the
    store said is looked at in the transaction only, where the caller was let in.
    """
    if not caller.context.settings.checks_sizes:
        return None
    with of_store():
        return await sizes(caller.context.store, [object_key(each.object_id) for each in objects])


def _add_stored(
    conn: Connection,
    request: wire.AddStored,
    there: Mapping[str, int] | None,
    user_id: int,
    may_read: grants.MayRead,
) -> None:
    grants.add_stored(
        conn,
        request.session_id,
        [StoredObject(each.object_id, each.size, tuple(each.chunks)) for each in request.objects],
        request.contents,
        user_id,
        may_read,
    )
    if (
        there is not None
    ):  # behind the question whose they are: sizes of others' are nobody's business
        _check_sizes(request.objects, there)


def _check_sizes(objects: list[wire.NewObject], there: Mapping[str, int]) -> None:
    """Nobody is told of bytes that never arrived. What is in them, only reading them tells."""
    for each in objects:
        size = there.get(object_key(each.object_id))
        if size != each.size:
            has = "no such object" if size is None else f"{size} bytes"
            raise Conflict(
                f"object {each.object_id}: the store has {has}, not {each.size} bytes; log again"
            )
