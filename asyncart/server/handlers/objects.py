"""Bytes of objects: URLs for them, their sizes, and the word that some are wrong."""

from __future__ import annotations

import anyio

from ... import wire
from ...errors import Conflict, Invalid, NotFound
from ...model import object_key
from .. import urls, verification
from ..context import Caller
from ..routing import handler
from ..storing import of_store
from .uploads import own


@handler("sign_urls")
async def sign_urls(caller: Caller, request: wire.SignUrls) -> wire.SignedUrls:
    to_put = [want.object_id for want in request.wanted if want.method is wire.UrlMethod.PUT]
    if to_put:
        writing = await own(caller, to_put)
        for object_id in to_put:
            if object_id not in writing:
                raise NotFound(
                    f"there is no upload of object {object_id}: it was given up meanwhile"
                )
            if not writing[object_id].is_live:
                raise Conflict(f"object {object_id}: its upload session is over; log again")
    return wire.SignedUrls(urls=await urls.sign(caller, request.wanted))


@handler("object_sizes")
async def object_sizes(caller: Caller, request: wire.ObjectSizes) -> wire.Sizes:
    """Of those that are there and that the caller may read; in the store, not in the catalog."""
    keys = {object_key(object_id): object_id for object_id in caller.object_ids}
    with of_store():
        found = await caller.context.store.sizes(list(keys))
    return wire.Sizes(sizes={keys[key]: size for key, size in found.items()})


@handler("mark_damaged")
async def mark_damaged(caller: Caller, request: wire.MarkDamaged) -> wire.Done:
    """What turns out to be right stays as it is, and so does what the caller may not read."""
    if len(request.object_ids) > wire.MAX_COMPLAINTS:
        raise Invalid(
            f"{len(request.object_ids)} objects at once: {wire.MAX_COMPLAINTS} are read, ask several times"
        )
    damaged = await verification.damaged(caller.context, sorted(caller.object_ids))
    if damaged:
        with anyio.CancelScope(shield=True):  # it was read for that: the caller may be gone by now
            await caller.context.catalog.mark_damaged(damaged)
    return wire.Done()
