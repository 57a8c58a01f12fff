"""What a bucket's server really does: asked once, recorded by the caller, never depended on.

Stores that speak S3 differ in what they verify, honour and list. `probe` tries it out with a few tiny
objects below `probe/`, which it removes again. The answers let `doctor` explain a store; one of them, which
checksum to send, is asked by itself before the first upload (`verified_checksum`), because it is worth
something. The catalog decides what exists, whatever the store does with conditions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

import anyio
import msgspec

from asyncart.errors import (
    AsyncartError,
    Conflict,
    Denied,
    Invalid,
    NotFound,
    TransferError,
    Unavailable,
)
from asyncart.net.plane import AttemptError
from asyncart.net.retry import Signed

from . import aws, checksums
from .presigned import ONLY_NEW
from .s3 import CLEANUP_S, S3Store, S3Upload

BODY = b"123456789"
CHECKSUMS = {
    "CRC64NVME": 0xAE8B14860A799888,
    "CRC32C": 0xE3069283,
}  # of BODY: the usual check values
EXPIRY_S = 1.0
URL_S = 60.0


class StoreFacts(msgspec.Struct, frozen=True):
    """`checksum`: the algorithm that the store verifies, None where it looks at none of them."""

    checksum: str | None
    honours_if_none_match: bool
    refuses_expired_urls: bool
    refuses_small_parts: bool
    lists_uploads: bool
    clock_skew_s: float  # the store's clock minus ours, where that matters to it


async def probe(store: S3Store) -> StoreFacts:
    """Try it out. Raises what any other use would raise: Denied, Unavailable..."""
    folder = f"probe/{os.urandom(8).hex()}/"
    try:
        await store.put(folder + "plain", [memoryview(BODY)], {})
        return StoreFacts(
            checksum=await verified_checksum(store, folder + "checksum"),
            honours_if_none_match=await _honours_if_none_match(store, folder + "plain"),
            refuses_expired_urls=await _refuses_expired_urls(store, folder + "plain"),
            refuses_small_parts=await _refuses_small_parts(store, folder + "parts"),
            lists_uploads=await _lists_uploads(store, folder + "upload"),
            clock_skew_s=store.access.skew_s,
        )
    finally:
        with anyio.move_on_after(CLEANUP_S, shield=True), contextlib.suppress(AsyncartError):
            page = await store.list_page(folder)
            await store.delete([item.key for item in page.objects])


async def verified_checksum(store: S3Store, key: str) -> str | None:
    """The checksum that is refused when wrong and accepted when right, in one piece and in parts.

    Five tiny requests where the store verifies the first one, two where it ignores both. They are all of
    this key; removing what it holds then is the caller's business. Raises what any other use would raise.
    """
    for algorithm, value in CHECKSUMS.items():
        name = checksums.header_name(algorithm)
        right = {name: checksums.encoded(value, algorithm)}
        wrong = {name: checksums.encoded(value ^ 1, algorithm)}
        if (
            not await _takes_checksum(store, key, wrong)
            and await _takes_checksum(store, key, right)
            and await _takes_in_parts(store, key, algorithm)
        ):
            return algorithm
    return None


async def writes_once(store: S3Store, key: str) -> bool | None:
    """Whether a URL that is signed for what is not there yet writes the object, and does not replace it.

    None: it does not even write it, or cannot be asked just now. Removing it is the caller's business.
    """

    async def sign(refused: AttemptError | None) -> Signed:
        presigner = await store.presigner()
        url = presigner.url("PUT", store.full_key(key), URL_S, is_only_new=True)
        return Signed(url, ONLY_NEW)

    async def put() -> None:
        await store.transfer.put(store.name(key), sign, [memoryview(BODY)])

    try:
        await put()
    except AsyncartError:
        return None
    try:
        await put()
    except Conflict:
        return True
    except AsyncartError:
        return None
    return False


async def _takes_checksum(store: S3Store, key: str, header: Mapping[str, str]) -> bool:
    try:
        return await _is_taken(store, key, header)
    except Denied:
        # Some say so of any header that they do not know. If we may not write at all, that is raised.
        await store.put(key, [memoryview(BODY)], {})
        return False


async def _takes_in_parts(store: S3Store, key: str, algorithm: str) -> bool:
    """Whether a multipart upload with this checksum comes to a good end."""
    upload: S3Upload | None = None
    is_complete = False
    try:
        upload = await store.begin_with(key, algorithm)
        await upload.part(0, 0, [memoryview(BODY)])
        await upload.complete(len(BODY))
        is_complete = True
    except AsyncartError as error:
        if not _is_refusal(error):
            raise
    finally:
        if upload is not None and not is_complete:
            with anyio.CancelScope(shield=True):
                await upload.abort()
    return is_complete


def _is_refusal(error: AsyncartError) -> bool:
    """Whether the store says no, and not that something is wrong just now. It may lack the call (501)."""
    if isinstance(error, Unavailable):
        refusal = aws.Refusal.of(error.__cause__)
        return refusal is not None and refusal.status == 501
    return isinstance(error, Conflict | Denied | Invalid | NotFound | TransferError)


async def _honours_if_none_match(store: S3Store, key: str) -> bool:
    """Whether a PUT with the condition "only if there is none" leaves the object that is there."""
    return not await _is_taken(store, key, {"If-None-Match": "*"})


async def _is_taken(store: S3Store, key: str, headers: Mapping[str, str]) -> bool:
    """Whether the store takes a PUT with these headers."""
    try:
        await store.put(key, [memoryview(BODY)], headers, repeats=0)
    except AsyncartError as error:
        if isinstance(error, Denied) or not _is_refusal(error):
            raise
        return False
    return True


async def _refuses_expired_urls(store: S3Store, key: str) -> bool:
    url = await store.presign(key, ttl_s=EXPIRY_S)
    assert url is not None  # this store always signs
    await anyio.sleep(EXPIRY_S + 1.5)  # clocks of stores have whole seconds
    buffer = memoryview(bytearray(len(BODY)))
    try:
        await store.transfer.plane.get_range(url, {}, 0, buffer)
    except AttemptError as error:
        return error.status in (400, 401, 403)
    return False


async def _refuses_small_parts(store: S3Store, key: str) -> bool:
    """S3 wants 5 MiB of every part but the last; ours are larger, so this is for the curious."""
    upload = await store.begin_upload(key)
    try:
        await upload.part(0, 0, [memoryview(BODY)])
        await upload.part(1, len(BODY), [memoryview(BODY)])
        await upload.complete(2 * len(BODY))
    except (TransferError, Denied):
        return True
    finally:
        await upload.abort()
    return False


async def _lists_uploads(store: S3Store, key: str) -> bool:
    """Whether an upload whose id got lost can be found again by its key."""
    upload = await store.begin_upload(key)
    try:
        return await store.resume_upload(key, "") is not None
    except AsyncartError:
        return False
    finally:
        await upload.abort()
