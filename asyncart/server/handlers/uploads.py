"""Objects on their way: registered by a session, sent in one piece or in parts, or given up.

That the object is an unfinished one of a session of the caller is known when a handler is called
(`policy`, `access`); that the session is still alive is asked here, for whatever makes bytes visible.
"""

from __future__ import annotations

from ... import wire
from ...catalog import grants, sessions
from ...errors import Conflict, Invalid, NotFound
from ...model import object_key
from .. import multipart, urls
from ..context import Caller
from ..routing import handler
from ..storing import of_store


@handler("register_upload")
async def register_upload(caller: Caller, request: wire.RegisterUpload) -> wire.Registered:
    await caller.context.catalog.register_upload(
        request.session_id, request.object_id, request.token, request.resume_key
    )
    if not request.want_url:
        return wire.Registered()
    wanted = wire.WantedUrl(object_id=request.object_id, method=wire.UrlMethod.PUT)
    (url,) = await urls.sign(caller, [wanted])
    return wire.Registered(url=url)


@handler("note_parts")
async def note_parts(caller: Caller, request: wire.NoteParts) -> wire.Done:
    await caller.context.catalog.note_parts(request.object_id, request.parts)
    return wire.Done()


@handler("adopt_upload")
async def adopt_upload(caller: Caller, request: wire.AdoptUpload) -> wire.Adopted:
    upload = await caller.context.database.write(
        sessions.adopt_upload,
        request.session_id,
        request.resume_key,
        principal=caller.principal.user_id,
        project=caller.bound_to,
    )
    return wire.Adopted(upload=upload)


@handler("forget_upload")
async def forget_upload(caller: Caller, request: wire.ForgetUpload) -> wire.Done:
    if await own(caller, [request.object_id]):
        await caller.context.catalog.forget_upload(request.object_id)
    return wire.Done()


@handler("begin_object_upload")
async def begin_object_upload(caller: Caller, request: wire.BeginObjectUpload) -> wire.ObjectUpload:
    await _require_live(caller, request.object_id)
    return await multipart.begin(caller.context, request.object_id, request.size_hint)


@handler("resume_object_upload")
async def resume_object_upload(caller: Caller, request: wire.ResumeObjectUpload) -> wire.Resumed:
    await _require_live(caller, request.object_id)
    found = await multipart.resume(caller.context, request.object_id, request.token)
    return wire.Resumed(upload=found)


@handler("complete_object_upload")
async def complete_object_upload(caller: Caller, request: wire.CompleteObjectUpload) -> wire.Done:
    if len(request.etags) != len(request.sizes):
        raise Invalid(f"{len(request.etags)} ETags for {len(request.sizes)} sizes of parts")
    await _require_live(caller, request.object_id)
    parts = list(zip(request.sizes, request.etags, strict=True))
    await multipart.complete(caller.context, request.object_id, request.token, request.size, parts)
    return wire.Done()


@handler("abort_object_upload")
async def abort_object_upload(caller: Caller, request: wire.AbortObjectUpload) -> wire.Done:
    if await own(caller, [request.object_id]):
        await multipart.abort(caller.context, request.object_id, request.token)
    return wire.Done()


@handler("delete_objects")
async def delete_objects(caller: Caller, request: wire.DeleteObjects) -> wire.Done:
    """Unfinished ones of the caller's own sessions; others are left alone, without a word."""
    mine = await own(caller, sorted(caller.object_ids))
    if mine:
        with of_store():
            await caller.context.store.delete([object_key(object_id) for object_id in mine])
    return wire.Done()


async def own(caller: Caller, object_ids: list[str]) -> dict[str, grants.Writing]:
    return await caller.context.database.read(
        grants.own_uploads, caller.principal.user_id, object_ids
    )


async def _require_live(caller: Caller, object_id: str) -> None:
    """Whoever was given up on may not make an object appear that the collector believes is gone."""
    writing = (await own(caller, [object_id])).get(object_id)
    if writing is None:
        raise NotFound(f"there is no upload of object {object_id}: it was given up meanwhile")
    if not writing.is_live:
        raise Conflict(f"object {object_id}: its upload session is over; log again")
