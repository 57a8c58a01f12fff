"""Objects in a bucket of S3 or of a store that speaks its language.

Promised: bytes go through the data plane (ranged GET, PUT, UploadPart: from and into the caller's
buffers), control calls through aiobotocore; every error is asyncart's own. An upload survives its
process: it is continued by its id, or found by its key where even the id got lost, and the parts that the
store has are asked of the store: one whose ETag is the MD5 of the bytes is not sent again, and nothing
else depends on that. `complete` may be repeated after a lost answer.

Refused: conditions, versions, ETags as checksums: stores differ in all of them. Where the store is known
to verify checksums (see `probe`), they are sent as well; correctness never depends on it. Whoever opens
the store may leave the question open until something is sent (`find_checksum`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import anyio

from asyncart.errors import AsyncartError, Invalid, NotFound, TransferError, Unavailable
from asyncart.net.plane import STALL_S, AttemptError, ResponseHead
from asyncart.net.retry import Transfer
from asyncart.threads import run_blocking

from . import aws, checksums
from .presigned import Presigner
from .protocol import Listed, Page
from .remote import is_etag_of, own_transfer, too_short, whole_size

PART_BYTES = 8 << 20  # S3 needs >= 5 MiB; 16 uploads of 8 MiB fit into the memory budget
MAX_PARTS = 10_000
MAX_OBJECT_BYTES = 5 << 40
KEYS_PER_CALL = 1000  # of DeleteObjects and of a listing
CALLS_AT_ONCE = 32  # control calls over many keys
REPEATS = 3  # of a request that reached the wrong region, or arrived damaged
CLEANUP_S = 5.0  # aborting an upload that was cancelled

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class S3Store:
    """`S3Store.open` finds out where the bucket is; nothing is asked of it before the first verb."""

    part_bytes = PART_BYTES
    is_local = False

    def __init__(
        self,
        access: aws.Access,
        prefix: str,
        transfer: Transfer,
        *,
        owns_transfer: bool = False,
        checksum: str | None = None,
    ) -> None:
        self.access = access
        self.url = access.url
        self._prefix = prefix
        self.transfer = transfer
        self.checksum = None if checksum is None else checksums.check_algorithm(checksum)
        # Asked once, before the first upload: which checksum to send from then on. Must not raise.
        self.find_checksum: Callable[[], Awaitable[str | None]] | None = None
        self._finding = anyio.Lock()
        self._owns_transfer = owns_transfer
        self._deletes_in_bulk = True

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        transfer: Transfer | None = None,
        endpoint_url: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        addressing_style: str | None = None,
        credentials: aws.Credentials | None = None,
        checksum: str | None = None,
        stall_timeout_s: float = STALL_S,
        limit_rate_bytes: int = 0,
    ) -> S3Store:
        """The store behind `s3://bucket/prefix`.

        What is not given comes from the AWS environment and profile. `transfer` may be shared by several
        stores; without it the store makes, and closes, one of its own, which gives up a stream after
        `stall_timeout_s` without a byte and moves at most `limit_rate_bytes` per second (0: no limit). `checksum` ("CRC64NVME" or
        "CRC32C") is for stores that verify it: see `probe`.
        """
        bucket, prefix = _split(url)

        def find() -> aws.Settings:
            return aws.find_settings(
                bucket,
                endpoint_url=endpoint_url,
                region=region,
                profile=profile,
                addressing_style=addressing_style,
                credentials=credentials,
            )

        access = aws.Access(await run_blocking(find), f"s3://{bucket}/{prefix}".rstrip("/"))
        owns = transfer is None
        return cls(
            access,
            prefix,
            transfer or own_transfer(stall_timeout_s, limit_rate_bytes),
            owns_transfer=owns,
            checksum=checksum,
        )

    def local_path(self, key: str) -> str | None:
        return None

    async def sizes(self, keys: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}

        async def look(key: str) -> None:
            with contextlib.suppress(NotFound):
                answer = await self._call("head_object", key)
                found[key] = int(answer["ContentLength"])

        await _for_each(look, keys)
        return found

    async def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        await self.read_measured(key, offset, buffer)

    async def read_measured(self, key: str, offset: int, buffer: memoryview) -> int | None:
        """`read_into`; returns the size of the whole object, which the store tells on the way."""
        if not buffer.nbytes:
            return None
        sign = self.access.signer("GET", self._prefix + key)
        head = await self._moving(
            key,
            lambda what: self.transfer.get_range(what, sign, offset, buffer),
            offset,
            buffer.nbytes,
        )
        return whole_size(head.headers)

    async def write(self, key: str, buffers: Sequence[memoryview]) -> None:
        checksum = await self.sent_checksum()
        await self.put(key, buffers, await _checksum_header(checksum, buffers))

    async def sent_checksum(self) -> str | None:
        """The algorithm of the checksums that go with what is sent; found out now if it has to be."""
        if self.find_checksum is not None:
            async with self._finding:
                if self.find_checksum is not None:
                    self.checksum = await self.find_checksum()
                    self.find_checksum = None
        return self.checksum

    async def put(
        self,
        key: str,
        buffers: Sequence[memoryview],
        headers: aws.Headers,
        query: str = "",
        *,
        repeats: int = REPEATS,
    ) -> ResponseHead:
        """One PUT, of an object or of a part, with headers of the caller's choice (`probe` has some).

        `repeats`: of a request whose bytes the store found damaged.
        """
        sign = self.access.signer("PUT", self._prefix + key, query, headers)
        return await self._moving(
            key, lambda what: self.transfer.put(what, sign, buffers), repeats=repeats
        )

    async def adopt(self, key: str, local_path: str) -> bool:
        return False

    async def begin_upload(self, key: str, size_hint: int | None = None) -> S3Upload:
        if size_hint is not None and size_hint > MAX_OBJECT_BYTES:
            raise Invalid(
                f"{self.name(key)}: {size_hint} bytes are more than S3 keeps in one object"
            )
        return await self.begin_with(key, await self.sent_checksum())

    async def begin_with(self, key: str, checksum: str | None) -> S3Upload:
        """`begin_upload`, with parts that bring this checksum."""
        options = {}
        if checksum:
            options = {"ChecksumAlgorithm": checksum, "ChecksumType": "FULL_OBJECT"}
        try:
            answer = await self._call("create_multipart_upload", key, **options)
        except BaseException:
            # The store may have begun it, and nobody knows its id: it is found again by its key.
            await self._abort_others(key, "")
            raise
        if answer["ResponseMetadata"].get("RetryAttempts"):
            await self._abort_others(key, answer["UploadId"])  # begun before, the answer got lost
        return S3Upload(self, key, Token(answer["UploadId"], checksum))

    async def resume_upload(self, key: str, token: str) -> S3Upload | None:
        """With an empty token: the newest upload of that key, whose id got lost with its process."""
        known = Token.parse(token) if token else await self._newest_upload(key)
        if known is None:
            return None
        if known.checksum and not checksums.is_available():
            await self._abort(
                key, known.id
            )  # begun where awscrt was there: cannot be continued here
            return None
        try:
            parts = await self._parts(key, known.id)
        except (
            NotFound,
            TransferError,
        ):  # gone; some stores call an id that is not theirs malformed
            return None
        return S3Upload(self, key, known, parts)

    async def delete(self, keys: Sequence[str]) -> None:
        if self._deletes_in_bulk:
            for start in range(0, len(keys), KEYS_PER_CALL):
                if not await self._delete_in_bulk(keys[start : start + KEYS_PER_CALL]):
                    self._deletes_in_bulk = False
                    break
            else:
                return
        await _for_each(self._delete_one, keys)

    async def list_page(self, prefix: str = "", after: str = "", limit: int = 1000) -> Page:
        params: dict[str, Any] = {
            "Prefix": self._prefix + prefix,
            "MaxKeys": min(limit, KEYS_PER_CALL),
        }
        if after:
            params["StartAfter"] = self._prefix + after
        while True:
            answer = await self.access.call("list_objects_v2", self.url, **params)
            objects = [
                Listed(
                    item["Key"].removeprefix(self._prefix),
                    int(item["Size"]),
                    item["LastModified"].timestamp(),
                )
                for item in answer.get("Contents", ())
            ]
            if objects or not answer.get("IsTruncated"):
                has_more = bool(answer.get("IsTruncated"))
                return Page(objects, objects[-1].key if has_more else None)
            params["ContinuationToken"] = answer["NextContinuationToken"]

    async def presign(self, key: str, *, method: str = "GET", ttl_s: float = 900) -> str | None:
        if method not in ("GET", "HEAD", "PUT"):
            raise Invalid(f"{method}: URLs can be signed for GET, HEAD and PUT")
        return await self.access.presign(method, self._prefix + key, ttl_s)

    async def presigner(self) -> Presigner:
        """For many URLs that are signed now; it takes full keys."""
        return await self.access.presigner()

    def full_key(self, key: str) -> str:
        """As the bucket knows it."""
        return self._prefix + key

    async def aclose(self) -> None:
        if self._owns_transfer:
            await self.transfer.plane.aclose()
        await self.access.aclose()

    def name(self, key: str) -> str:
        """For messages."""
        return f"{self.url}/{key}"

    # Used by uploads too

    async def _call(self, operation: str, key: str, **params: Any) -> dict[str, Any]:
        return await self.access.call(operation, self.name(key), Key=self._prefix + key, **params)

    async def _moving(
        self,
        key: str,
        move: Callable[[str], Awaitable[ResponseHead]],
        offset: int = 0,
        length: int = 0,
        repeats: int = REPEATS,
    ) -> ResponseHead:
        """Run a transfer, and again where S3 says, beyond HTTP, that this makes sense."""
        what = self.name(key)
        moves = REPEATS
        while True:
            try:
                return await move(what)
            except AsyncartError as error:
                if moves and self.access.has_moved(error):
                    moves -= 1
                elif repeats and aws.is_damaged_in_transit(error):
                    repeats -= 1
                else:
                    raise _explained(error, what, offset, length) from error.__cause__

    async def _parts(self, key: str, upload_id: str) -> list[Part]:
        """The parts that the store has."""
        params: dict[str, Any] = {"UploadId": upload_id}
        parts: list[Part] = []
        while True:
            answer = await self._call("list_parts", key, **params)
            parts += [
                Part(int(part["PartNumber"]), int(part["Size"]), part["ETag"])
                for part in answer.get("Parts", ())
            ]
            if not answer.get("IsTruncated"):
                return parts
            params["PartNumberMarker"] = answer["NextPartNumberMarker"]

    async def _abort(self, key: str, upload_id: str) -> None:
        with contextlib.suppress(NotFound):
            await self._call("abort_multipart_upload", key, UploadId=upload_id)

    async def _abort_others(self, key: str, upload_id: str) -> None:
        """Abort the key's uploads but this one, as far as the store is in a state to do so."""
        with anyio.move_on_after(CLEANUP_S, shield=True), contextlib.suppress(AsyncartError):
            for upload in await self._uploads(key):
                if upload["UploadId"] != upload_id:
                    await self._abort(key, upload["UploadId"])

    async def _newest_upload(self, key: str) -> Token | None:
        uploads = sorted(await self._uploads(key), key=lambda upload: upload["Initiated"])
        if not uploads:
            return None
        return Token(uploads[-1]["UploadId"], uploads[-1].get("ChecksumAlgorithm"))

    async def _uploads(self, key: str) -> list[dict[str, Any]]:
        """The unfinished uploads of one key. Never more than a page of them: keys are not reused."""
        full = self._prefix + key
        answer = await self.access.call("list_multipart_uploads", self.name(key), Prefix=full)
        return [upload for upload in answer.get("Uploads", ()) if upload["Key"] == full]

    async def _delete_in_bulk(self, keys: Sequence[str]) -> bool:
        """False if this store has no such call, or wants another checksum with it."""
        objects = [{"Key": self._prefix + key} for key in keys]
        try:
            answer = await self.access.call(
                "delete_objects", self.url, Delete={"Objects": objects, "Quiet": True}
            )
        except TransferError:
            return False
        except Unavailable as error:
            refusal = aws.Refusal.of(error.__cause__)
            if refusal is not None and refusal.status == 501:
                return False
            raise
        failed = [item for item in answer.get("Errors", ()) if item.get("Code") != "NoSuchKey"]
        if failed:
            first = failed[0]
            raise Unavailable(
                f"{self.name(first['Key'].removeprefix(self._prefix))}: deleting failed: "
                f"{first.get('Code')} {first.get('Message', '')} ({len(failed)} of {len(keys)} objects)"
            )
        return True

    async def _delete_one(self, key: str) -> None:
        with contextlib.suppress(NotFound):
            await self._call("delete_object", key)


class Part(NamedTuple):
    """A part that the store has. `number` counts from 1."""

    number: int
    size: int
    etag: str


class Token(NamedTuple):
    """`CHECKSUM/ID` or `/ID`: the store's upload id, and the checksum that goes with every part."""

    id: str
    checksum: str | None

    def __str__(self) -> str:
        return f"{self.checksum or ''}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> Token | None:
        checksum, slash, upload_id = text.partition("/")
        if not slash or not upload_id or checksum not in ("", *checksums.SIZES):
            return None
        return cls(upload_id, checksum or None)


class S3Upload:
    """A multipart upload. Part numbers are indexes plus one."""

    def __init__(self, store: S3Store, key: str, token: Token, parts: Iterable[Part] = ()) -> None:
        self.key = key
        self.token = str(token)
        self._store = store
        self._id = token.id
        self._checksum = token.checksum
        self._parts = {part.number: part for part in parts}
        self._found = set(self._parts)  # those that an earlier attempt sent

    @property
    def parts(self) -> list[Part]:
        """Those that the store has, in order."""
        return sorted(self._parts.values())

    async def part(self, index: int, offset: int, buffers: Sequence[memoryview]) -> None:
        number = index + 1
        if number > MAX_PARTS:
            raise Invalid(f"{self._name}: more than {MAX_PARTS} parts; send larger ones")
        if number in self._found:
            self._found.discard(number)
            sent = self._parts[number]
            if await run_blocking(is_etag_of, sent.etag, sent.size, buffers):
                return  # it arrived, and nobody was told
        size = sum(buffer.nbytes for buffer in buffers)
        header = await _checksum_header(self._checksum, buffers)
        query = urlencode({"partNumber": number, "uploadId": self._id})
        head = await self._store.put(self.key, buffers, header, query)
        etag = head.headers.get("etag")
        if not etag:
            raise TransferError(f"{self._name}: the store did not name part {number} (no ETag)")
        self._parts[number] = Part(number, size, etag)

    async def complete(self, size: int) -> None:
        self._leave_out(size)
        parts = whole(self._parts.values(), size)
        if parts is None:
            held = sum(part.size for part in self._parts.values())
            raise Invalid(f"{self._name}: {len(self._parts)} parts hold {held} bytes, not {size}")
        try:
            if parts:
                await self._complete(parts)
            else:  # S3 has no multipart upload of nothing
                await self._store._parts(self.key, self._id)  # NotFound if it is over
                await self._store.write(self.key, ())
                await self.abort()
        except NotFound:
            # Completed before, perhaps by a call whose answer got lost.
            if (await self._store.sizes([self.key])).get(self.key) != size:
                raise

    async def abort(self) -> None:
        with anyio.move_on_after(CLEANUP_S, shield=True) as scope:
            await self._store._abort(self.key, self._id)
        if scope.cancelled_caught:
            raise Unavailable(f"{self._name}: aborting took more than {CLEANUP_S:.0f} s")

    def _leave_out(self, size: int) -> None:
        """Forget parts at the end that only an earlier attempt sent, whose content was longer."""
        surplus = sum(part.size for part in self._parts.values()) - size
        for number in sorted(self._found, reverse=True):
            if surplus <= 0 or number != max(self._parts):
                return
            surplus -= self._parts.pop(number).size

    async def _complete(self, parts: list[Part]) -> None:
        named = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        await self._store._call(
            "complete_multipart_upload",
            self.key,
            UploadId=self._id,
            MultipartUpload={"Parts": named},
        )

    @property
    def _name(self) -> str:
        return self._store.name(self.key)


def whole(parts: Iterable[Part], size: int) -> list[Part] | None:
    """The parts in order, if they follow each other without a gap and have `size` bytes together."""
    ordered = sorted(parts)
    numbers = [part.number for part in ordered]
    if numbers != list(range(1, len(ordered) + 1)) or sum(part.size for part in ordered) != size:
        return None
    return ordered


def _split(url: str) -> tuple[str, str]:
    """Bucket and prefix ("" or "a/b/")."""
    bucket, _, prefix = url.partition("://")[2].partition("/")
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise Invalid(f"{url}: not a bucket; use s3://bucket/prefix")
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise Invalid(f"{url}: a prefix is made of names joined by single slashes")
    return bucket, prefix + "/" if prefix else ""


def _explained(error: AsyncartError, what: str, offset: int, length: int) -> AsyncartError:
    """The same error, where S3 tells more than HTTP: no bucket, or an object that is too short."""
    cause = error.__cause__
    if not isinstance(cause, AttemptError):
        return error
    if aws.Refusal.of_attempt(cause).code == "NoSuchBucket":
        return aws.no_such_bucket(what)
    return too_short(error, what, offset, length) or error


async def _checksum_header(algorithm: str | None, buffers: Sequence[memoryview]) -> dict[str, str]:
    if algorithm is None:
        return {}
    if sum(buffer.nbytes for buffer in buffers) <= checksums.INLINE_BYTES:
        value = checksums.checksum(algorithm, buffers)
    else:
        value = await run_blocking(checksums.checksum, algorithm, buffers)
    return {checksums.header_name(algorithm): value}


async def _for_each(function: Callable[[str], Awaitable[None]], keys: Iterable[str]) -> None:
    """Call it for all keys, some at once; the first error stops the rest and is raised as itself."""
    todo = iter(keys)
    failures: list[Exception] = []

    async def work() -> None:
        for key in todo:
            try:
                await function(key)
            except Exception as error:
                failures.append(error)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(CALLS_AT_ONCE):
            group.start_soon(work)
    if failures:
        raise failures[0]
