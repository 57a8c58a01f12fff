"""Signed URLs: thousands in one answer, by arithmetic alone.

For a bucket they point there, so that bytes never pass through the server; for a store that is a folder of
the server's own they point at `bytes`. Whether the caller may have them was decided before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import Invalid
from ..model import object_key
from ..stores.protocol import Store
from ..wire import SignedUrl, UrlMethod, WantedUrl
from . import bytes as bytes_module
from .context import Caller
from .storing import of_store

Sign = Callable[[WantedUrl], str]


def check_store(store: Store) -> None:
    """Raise Invalid for a store whose objects clients could not get at."""
    if bytes_module.is_needed(store):
        return
    if not store.is_local:
        from ..stores.s3 import S3Store

        if isinstance(store, S3Store):
            return
    raise Invalid(f"{store.url}: neither a bucket nor a folder: it cannot be a server's store")


async def sign(caller: Caller, wanted: Sequence[WantedUrl]) -> list[SignedUrl]:
    """In the order of the request."""
    for want in wanted:
        if want.part is None and want.token:
            raise Invalid(f"object {want.object_id}: a token is for a part, say which")
        if want.part is not None and (want.method is UrlMethod.GET or not want.token):
            raise Invalid(f"object {want.object_id}: a part is PUT, with the token of its upload")
    ttl_s = caller.context.settings.url_ttl_s
    url_of = await _signer(caller, ttl_s)
    return [
        SignedUrl(
            object_id=want.object_id,
            method=want.method,
            url=url_of(want),
            part=want.part,
            ttl_s=ttl_s,
        )
        for want in wanted
    ]


async def _signer(caller: Caller, ttl_s: float) -> Sign:
    context = caller.context
    if bytes_module.is_needed(context.store):
        return bytes_module.signer(context, caller.origin, ttl_s)
    from ..stores.s3 import S3Store, Token

    store = context.store
    assert isinstance(store, S3Store)  # see `check_store`
    with of_store():
        presigner = await store.presigner()

    def url(want: WantedUrl) -> str:
        key = store.full_key(object_key(want.object_id))
        if want.part is None:
            return presigner.url(want.method.value, key, ttl_s)
        token = Token.parse(want.token)
        if token is None:
            raise Invalid(f"object {want.object_id}: that is no token of an upload here")
        return presigner.url(
            want.method.value, key, ttl_s, part_number=want.part + 1, upload_id=token.id
        )

    return url
