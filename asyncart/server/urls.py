"""Signed URLs: thousands in one answer, by arithmetic alone.

For a bucket they point there, so that bytes never pass through the server; for a store that is a folder of
the server's own they point at `bytes`. Whether the caller may have them was decided before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import Invalid
from ..model import object_key
from ..stores.protocol import Store
from ..wire import SignedUrl, UrlMethod, WantedUrl
from . import bytes as bytes_module
from .context import Caller
from .storing import of_store

Headers = Mapping[str, str]  # to be sent with the request, because they are signed
Sign = Callable[[WantedUrl], tuple[str, Headers]]
NO_HEADERS: Headers = {}


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
    is_writing = any(want.method is UrlMethod.PUT and want.part is None for want in wanted)
    sign_one = await _signer(caller, ttl_s, is_writing)
    return [_signed(want, *sign_one(want), ttl_s) for want in wanted]


def _signed(want: WantedUrl, url: str, headers: Headers, ttl_s: float) -> SignedUrl:
    return SignedUrl(
        object_id=want.object_id,
        method=want.method,
        url=url,
        headers=dict(headers),
        part=want.part,
        ttl_s=ttl_s,
    )


async def _signer(caller: Caller, ttl_s: float, is_writing: bool) -> Sign:
    """`is_writing`: also for whole objects."""
    context = caller.context
    if bytes_module.is_needed(context.store):
        local_url = bytes_module.signer(context, caller.origin, ttl_s)
        return lambda want: (local_url(want), NO_HEADERS)
    from ..stores.presigned import ONLY_NEW
    from ..stores.s3 import S3Store, Token

    store = context.store
    assert isinstance(store, S3Store)  # see `check_store`
    is_only_new = is_writing and await context.overwriting.is_prevented(store)
    with of_store():
        presigner = await store.presigner()

    def sign_one(want: WantedUrl) -> tuple[str, Headers]:
        key = store.full_key(object_key(want.object_id))
        method = want.method.value
        if want.method is UrlMethod.PUT and want.part is None and is_only_new:
            return presigner.url(method, key, ttl_s, is_only_new=True), ONLY_NEW
        if want.part is None:
            return presigner.url(method, key, ttl_s), NO_HEADERS
        token = Token.parse(want.token)
        if token is None:
            raise Invalid(f"object {want.object_id}: that is no token of an upload here")
        url = presigner.url(method, key, ttl_s, part_number=want.part + 1, upload_id=token.id)
        return url, NO_HEADERS

    return sign_one
