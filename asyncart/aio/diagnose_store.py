"""Try out a store: may we, does it keep its word, how quick is it?

Every store is asked for the verbs that the engine uses; a bucket, beyond that, for what stores that speak S3
disagree about. All objects lie below `doctor/RANDOM/` and are deleted, whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import anyio

from ..errors import AsyncartError, Corrupt, Denied, TransferError, Unavailable
from ..net.plane import AttemptError, Reason, error_code
from ..stores import open_store
from ..threads import run_blocking
from .findings import Checkup, State

if TYPE_CHECKING:
    from ..stores.local import LocalStore
    from ..stores.protocol import Store
    from ..stores.s3 import S3Store

BODY = bytes(range(256)) * 16
RANGE = slice(1000, 1100)
LATENCY_REQUESTS = 5
FIRST_PART_BYTES = 5 << 20  # the least that S3 takes of a part that is not the last
LAST_PART_BYTES = 1 << 10
TRANSFER_WITHIN_S = 180.0  # that part, over a line of 30 KB/s
CLEANUP_S = 10.0
NOTABLE_SKEW_S = 30.0
REFUSED_SKEW_S = 900.0  # AWS takes no signature that is older

# A 403 with one of these is about who we are; any other is about what we may do.
_BAD_CREDENTIALS = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "InvalidSecurity",
        "AuthorizationQueryParametersError",
    }
)


async def check_store(url: str, checkup: Checkup) -> None:
    try:
        store = await open_store(url)
    except AsyncartError as error:
        checkup.fail("URL", str(error), error.exit_code)
        return
    try:
        await _check(store, checkup)
    finally:
        with anyio.CancelScope(shield=True):
            await store.aclose()


async def _check(store: Store, checkup: Checkup) -> None:
    bucket, folder = _as_bucket(store), _as_folder(store)
    if bucket is not None and not await checkup.check("reachable", lambda: _reach(bucket, checkup)):
        return
    async with _corner(store, folder) as corner:
        if not await _check_verbs(store, corner, checkup):
            return
        await checkup.check("latency", lambda: _latency(store, corner, checkup))
        if bucket is not None:
            await _check_bucket(bucket, corner, checkup)
        if folder is not None:
            await checkup.check("leftover files", lambda: _temp_files(folder, checkup))


def _as_bucket(store: Store) -> S3Store | None:
    if not store.url.startswith("s3://"):
        return None
    from ..stores.s3 import S3Store

    return store if isinstance(store, S3Store) else None


def _as_folder(store: Store) -> LocalStore | None:
    if not store.is_local or not store.url.startswith("file:"):
        return None
    from ..stores.local import LocalStore

    return store if isinstance(store, LocalStore) else None


@asynccontextmanager
async def _corner(store: Store, folder: LocalStore | None) -> AsyncIterator[str]:
    """A prefix of our own; what is below it is deleted at the end, and folders that it needed, too."""
    corner = f"doctor/{os.urandom(8).hex()}/"
    kept = "" if folder is None else await run_blocking(nearest_folder, folder.root)
    try:
        yield corner
    finally:
        with anyio.move_on_after(CLEANUP_S, shield=True):
            with contextlib.suppress(AsyncartError):
                page = await store.list_page(corner)
                await store.delete([item.key for item in page.objects])
            if folder is not None:
                await run_blocking(
                    remove_empty_folders, os.path.join(folder.root, corner[:-1]), kept
                )


def nearest_folder(path: str) -> str:
    """The path, or the nearest folder above it that exists."""
    path = os.path.abspath(path)
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def remove_empty_folders(path: str, kept: str) -> None:
    """Remove the empty folder and those above it, up to the one that was there before."""
    with contextlib.suppress(OSError):
        while path != kept:
            os.rmdir(path)
            path = os.path.dirname(path)


# What every store must do


async def _check_verbs(store: Store, corner: str, checkup: Checkup) -> bool:
    """Put, get, list and delete, each of them by itself; False if bytes cannot be put and got."""
    key = corner + "whole"

    async def put() -> None:
        await store.write(key, [memoryview(BODY)])
        checkup.ok("put", f"an object of {len(BODY)} bytes is stored")

    async def get() -> None:
        buffer = bytearray(len(BODY))
        await store.read_into(key, 0, memoryview(buffer))
        _require_same(store, buffer, BODY)
        checkup.ok("get", "and comes back as it was")

    async def ranged() -> None:
        buffer = bytearray(len(BODY[RANGE]))
        await store.read_into(key, RANGE.start, memoryview(buffer))
        _require_same(store, buffer, BODY[RANGE])
        checkup.ok("ranged get", "a piece of it comes as exactly that piece")

    async def listed() -> None:
        page = await store.list_page(corner)
        if [(item.key, item.size) for item in page.objects] != [(key, len(BODY))]:
            raise Corrupt(f"{store.url}: the listing does not show what was stored")
        checkup.ok("list", "it is listed with its size")

    async def delete() -> None:
        await store.write(corner + "gone", [memoryview(BODY)])
        await store.delete([corner + "gone"])
        if await store.sizes([corner + "gone"]):
            raise TransferError(f"{store.url}: an object is still there after its deletion")
        checkup.ok("delete", "and is gone when it is deleted")

    if not await checkup.check("put", put) or not await checkup.check("get", get):
        return False
    await checkup.check("ranged get", ranged)
    # Without the right to list or delete, logging and downloading work; collecting garbage does not.
    await checkup.check("list", listed, state=State.WARNING)
    await checkup.check("delete", delete, state=State.WARNING)
    return True


def _require_same(store: Store, found: bytes | bytearray, wanted: bytes) -> None:
    if found != wanted:
        raise Corrupt(f"{store.url}: other bytes came back than were stored")


async def _latency(store: Store, corner: str, checkup: Checkup) -> None:
    times = []
    buffer = memoryview(bytearray(1))
    for _ in range(LATENCY_REQUESTS):
        started = time.perf_counter()
        await store.read_into(corner + "whole", 0, buffer)
        times.append(time.perf_counter() - started)
    median_s = statistics.median(times)
    checkup.ok("latency", f"{median_s * 1000:.1f} ms to read a byte", median_s)


# A bucket


async def _reach(store: S3Store, checkup: Checkup) -> None:
    """One signed GET of an object that is not there, without any repeat: who answers, and what?"""
    settings = store.access.settings
    where = settings.endpoint_url or f"AWS in {settings.region}"
    url = await store.presign(f"doctor/{os.urandom(8).hex()}", ttl_s=300)
    assert url is not None  # this store always signs
    started = time.perf_counter()
    try:
        head = await store.transfer.plane.get_range(url, {}, 0, memoryview(bytearray(1)))
        status, code, headers = head.status, "", head.headers
    except AttemptError as error:
        if error.reason is not Reason.STATUS or error.status is None:
            raise Unavailable(
                f"{where}: {error}; check the endpoint (AWS_ENDPOINT_URL_S3) and the network"
            ) from error
        status, code, headers = error.status, error_code(error.body), error.headers
    elapsed_s = time.perf_counter() - started
    if code == "NoSuchBucket":
        raise Unavailable(f"{store.url}: {where} has no such bucket; create it or correct the URL")
    if status >= 500:
        raise Unavailable(f"{where}: answers {status} {code}".rstrip())
    style = "path" if settings.is_path_style else "virtual-host"
    checkup.ok(
        "reachable", f"{where} answers in {elapsed_s * 1000:.0f} ms ({style} style)", elapsed_s
    )
    _check_clock(headers.get("date", ""), checkup)
    if status in (400, 401, 403) and code in _BAD_CREDENTIALS:
        raise Denied(
            f"{where}: refuses the credentials: {code}; check AWS_ACCESS_KEY_ID and others"
        )
    if status in (401, 403) and code != "RequestTimeTooSkewed":
        checkup.note(
            "credentials",
            f"known, but {code or status} for an object that is not there: no right to list",
        )
    else:
        checkup.ok("credentials", "accepted")


def _check_clock(date: str, checkup: Checkup) -> None:
    try:
        skew_s = (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        checkup.note("clock", "the store does not tell its time")
        return
    skew_s = round(skew_s)  # its Date has whole seconds
    if abs(skew_s) <= NOTABLE_SKEW_S:
        checkup.ok("clock", f"the store's clock is {skew_s:+d} s from ours", skew_s)
        return
    cure = "signatures are corrected for it" if abs(skew_s) > REFUSED_SKEW_S else "set it right"
    checkup.warn("clock", f"the store's clock is {skew_s:+d} s from ours; {cure}", skew_s)


async def _check_bucket(store: S3Store, corner: str, checkup: Checkup) -> None:
    await checkup.check("206", lambda: _partial_content(store, corner, checkup))
    await checkup.check(
        "multipart",
        lambda: _multipart(store, corner + "parts", checkup),
        within_s=TRANSFER_WITHIN_S,
    )
    await checkup.check(
        "abort", lambda: _abort(store, corner + "aborted", checkup), state=State.WARNING
    )
    await checkup.check("peculiarities", lambda: _probe(store, checkup), state=State.WARNING)
    await checkup.check(
        "leftover uploads", lambda: _open_uploads(store, checkup), state=State.WARNING
    )


async def _partial_content(store: S3Store, corner: str, checkup: Checkup) -> None:
    """Over a presigned URL, as somebody without credentials would fetch it."""
    url = await store.presign(corner + "whole", ttl_s=300)
    assert url is not None
    buffer = bytearray(len(BODY[RANGE]))
    try:
        head = await store.transfer.plane.get_range(url, {}, RANGE.start, memoryview(buffer))
    except AttemptError as error:
        raise TransferError(f"a presigned ranged GET failed: {error}") from error
    _require_same(store, buffer, BODY[RANGE])
    checkup.ok("206", f"a presigned ranged GET is answered with {head.status}", head.status)


async def _multipart(store: S3Store, key: str, checkup: Checkup) -> None:
    """Begin with one part, continue as another process would: by what the store says that it has."""
    first, last = os.urandom(FIRST_PART_BYTES), os.urandom(LAST_PART_BYTES)
    upload = await store.begin_upload(key)
    try:
        await upload.part(0, 0, [memoryview(first)])
        resumed = await store.resume_upload(key, upload.token)
        if resumed is None:
            raise TransferError(
                f"{store.url}: an upload cannot be continued: its parts are unknown"
            )
        await resumed.part(1, len(first), [memoryview(last)])
        await resumed.complete(len(first) + len(last))
    except BaseException:
        with anyio.move_on_after(CLEANUP_S, shield=True), contextlib.suppress(AsyncartError):
            await upload.abort()
        raise
    seam = bytearray(2 * LAST_PART_BYTES)
    await store.read_into(key, len(first) - LAST_PART_BYTES, memoryview(seam))
    _require_same(store, seam, first[-LAST_PART_BYTES:] + last)
    checkup.ok("multipart", "two parts, the second one after the upload was found again")


async def _abort(store: S3Store, key: str, checkup: Checkup) -> None:
    upload = await store.begin_upload(key)
    try:
        await upload.part(0, 0, [memoryview(BODY)])
    finally:
        with anyio.CancelScope(shield=True):
            await upload.abort()
    is_gone = await store.resume_upload(key, upload.token) is None
    checkup.answer(
        "abort",
        is_gone,
        "an aborted upload is gone",
        "an aborted upload is still there: its parts cost space until the store sweeps them",
        or_else=State.WARNING,
    )


async def _probe(store: S3Store, checkup: Checkup) -> None:
    from ..stores.probe import probe

    facts = await probe(store)
    checkup.say(
        State.OK if facts.checksum else State.NOTE,
        "checksums",
        f"an upload with a wrong {facts.checksum} is refused"
        if facts.checksum
        else "an upload with a wrong checksum is taken; what is read is verified in any case",
        facts.checksum or False,
    )
    checkup.answer(
        "If-None-Match",
        facts.honours_if_none_match,
        "an existing object is not overwritten where that is asked for",
        "an existing object is overwritten in spite of it; nothing here relies on it",
        or_else=State.NOTE,
    )
    checkup.answer(
        "expired URLs",
        facts.refuses_expired_urls,
        "a presigned URL ends when it should",
        "a presigned URL is served after its time: who has a link keeps it",
        or_else=State.WARNING,
    )
    checkup.answer(
        "small parts",
        facts.refuses_small_parts,
        "parts below 5 MiB are refused, as on AWS (ours are larger)",
        "parts of any size are taken",
        or_else=State.NOTE,
    )
    checkup.answer(
        "lost uploads",
        facts.lists_uploads,
        "an upload whose id got lost is found by its key",
        "an upload whose id got lost is never found: let the store delete incomplete uploads",
        or_else=State.WARNING,
    )


async def _open_uploads(store: S3Store, checkup: Checkup) -> None:
    prefix = store.url.removeprefix("s3://").partition("/")[2]
    answer = await store.access.call(
        "list_multipart_uploads", store.url, Prefix=f"{prefix}/objects/" if prefix else "objects/"
    )
    uploads = answer.get("Uploads", ())
    if not uploads:
        checkup.ok("leftover uploads", "no upload is open", 0)
        return
    oldest = min(upload["Initiated"] for upload in uploads)
    hours = (datetime.now(UTC) - oldest).total_seconds() / 3600
    more = " or more" if answer.get("IsTruncated") else ""
    checkup.note(
        "leftover uploads",
        f"{len(uploads)}{more} uploads are open, the oldest for {hours:.1f} h;"
        " `asyncart gc` aborts those whose writers are gone",
        len(uploads),
    )


# A folder


async def _temp_files(store: LocalStore, checkup: Checkup) -> None:
    count, nbytes = await run_blocking(_count_temp_files, store.root)
    if count:
        checkup.note(
            "leftover files",
            f"{count} unfinished objects, {nbytes} bytes; `asyncart gc` removes those whose writers are gone",
            count,
        )
    else:
        checkup.ok("leftover files", "no unfinished objects", 0)


def _count_temp_files(root: str) -> tuple[int, int]:
    from ..stores.local import TempName

    count = nbytes = 0
    for folder, _, names in os.walk(root):
        for name in names:
            if TempName.parse(name) is not None:
                count += 1
                with contextlib.suppress(OSError):  # gone meanwhile
                    nbytes += os.lstat(os.path.join(folder, name)).st_size
    return count, nbytes
