"""Bytes of objects: URLs for them, their sizes, and the word that some are wrong."""

from __future__ import annotations

import anyio

from ... import wire
from ...errors import Conflict, NotFound, Unavailable
from ...model import object_key
from .. import urls, verification
from ..context import Caller
from ..routing import handler
from ..storing import of_store
from .uploads import own

MOST_DAMAGED = 100  # objects of one complaint: each one is read


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
    suspects = sorted(caller.object_ids)
    if len(suspects) > MOST_DAMAGED:
        raise Unavailable(
            f"{len(suspects)} objects at once: {MOST_DAMAGED} are read, ask again for more"
        )
    damaged = await verification.damaged(caller.context, suspects)
    if damaged:
        with anyio.CancelScope(shield=True):  # it was read for that: the caller may be gone by now
            await caller.context.catalog.mark_damaged(damaged)
    return wire.Done()
