"""What only the S3 store promises: settings, signatures, uploads that outlive their process, odd servers."""

from __future__ import annotations

import asyncio
import os
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from services import S3Server
from store_kinds import opened, read, views

from asyncart.errors import Conflict, Corrupt, Denied, Invalid, TransferError, Unavailable
from asyncart.net.aiohttp_plane import AiohttpPlane
from asyncart.net.plane import ResponseHead
from asyncart.net.retry import Transfer
from asyncart.stores import aws, open_store
from asyncart.stores.probe import StoreFacts, probe
from asyncart.stores.s3 import Part, S3Store, Token, whole

KEY = "objects/ab/0123456789ab"
PART = 8 << 20


@pytest.fixture
async def store(aws_environment: S3Server, tmp_path: Path) -> AsyncIterator[S3Store]:
    async with opened(f"s3://{aws_environment.bucket}/{tmp_path.name}") as store:
        assert isinstance(store, S3Store)
        yield store


async def unfinished(store: S3Store) -> list[str]:
    answer = await store.access.call("list_multipart_uploads", store.url, Prefix=store._prefix)
    return [upload["Key"].removeprefix(store._prefix) for upload in answer.get("Uploads", ())]


# Settings


def settings(**options: str | None) -> aws.Settings:
    return aws.find_settings("bucket", **options)  # type: ignore[arg-type]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine that knows nothing of AWS but a configuration file, which is returned."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "config"


def test_without_any_setting_it_is_aws_itself(bare: Path) -> None:
    found = settings()
    assert found[:4] == ("bucket", None, "us-east-1", False)


def test_settings_come_from_arguments_then_environment_then_profile(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint means path style, unless the profile says otherwise."""
    bare.write_text(
        "[profile lab]\nregion = eu-lab-1\nendpoint_url = http://lab:1\n"
        "[profile virtual]\nendpoint_url = http://lab:2\ns3 =\n  addressing_style = virtual\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    found = settings()
    assert (found.endpoint_url, found.region) == ("http://lab:1", "eu-lab-1")
    assert found.is_path_style
    assert not settings(profile="virtual").is_path_style
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://any:3")
    monkeypatch.setenv("AWS_REGION", "eu-env-1")
    assert settings()[1:3] == ("http://any:3", "eu-env-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3:4")
    assert settings()[1:3] == ("http://s3:4", "eu-env-1")
    given = settings(endpoint_url="http://me:5", region="me-1", addressing_style="virtual")
    assert given[1:4] == ("http://me:5", "me-1", False)


def test_a_profile_that_does_not_exist_is_named(bare: Path) -> None:
    with pytest.raises(Invalid, match="nowhere"):
        settings(profile="nowhere")


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "https://bucket.s3.amazonaws.com/p/k%20%2B"),
        ({"region": "eu-west-1"}, "https://bucket.s3.eu-west-1.amazonaws.com/p/k%20%2B"),
        ({"region": "cn-north-1"}, "https://bucket.s3.cn-north-1.amazonaws.com.cn/p/k%20%2B"),
        ({"bucket": "b.c", "region": "eu-1"}, "https://s3.eu-1.amazonaws.com/b.c/p/k%20%2B"),
        ({"endpoint_url": "http://h:9/sub"}, "http://h:9/sub/bucket/p/k%20%2B"),
        (
            {"endpoint_url": "https://h", "addressing_style": "virtual"},
            "https://bucket.h/p/k%20%2B",
        ),
    ],
)
async def test_urls_of_objects(bare: Path, options: dict[str, str], url: str) -> None:
    """The region is in the host, dots never are, and the key is quoted."""
    keys = aws.Credentials("AK", "SK", "TOKEN")
    bucket = options.pop("bucket", "bucket")
    access = aws.Access(aws.find_settings(bucket, credentials=keys, **options), "s3://bucket")  # type: ignore[arg-type]
    signed = await access.signer("GET", "p/k +")(None)
    presigned = await access.presign("GET", "p/k +", 60)
    await access.aclose()
    assert signed.url == url
    assert presigned.startswith(f"{url}?X-Amz-Algorithm=AWS4-HMAC-SHA256&")
    assert signed.headers["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"
    assert signed.headers["X-Amz-Security-Token"] == "TOKEN"
    assert signed.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AK/")


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://a/b//c", "s3://a/../b", "s3://a b/c"])
async def test_urls_that_name_no_bucket_are_refused(url: str) -> None:
    with pytest.raises(Invalid, match="s3://"):
        await open_store(url)


async def test_no_credentials_is_said_before_anything_is_sent(bare: Path) -> None:
    async with opened("s3://bucket/x", endpoint_url="http://127.0.0.1:9") as store:
        for attempt in (store.write(KEY, views(b"x")), store.sizes([KEY]), store.presign(KEY)):
            with pytest.raises(Denied, match="AWS_ACCESS_KEY_ID"):
                await attempt


# Errors of the real server


async def test_wrong_credentials_are_denied(aws_environment: S3Server) -> None:
    keys = aws.Credentials(aws_environment.access_key, "wrong")
    async with opened(f"s3://{aws_environment.bucket}/x", credentials=keys) as store:
        for attempt in (store.write(KEY, views(b"x")), store.sizes([KEY]), store.begin_upload(KEY)):
            with pytest.raises(Denied, match="credentials"):
                await attempt


async def test_a_missing_bucket_is_not_a_missing_object(aws_environment: S3Server) -> None:
    """Otherwise a wrong URL would say of every object that it got lost."""
    async with opened("s3://no-such-bucket-here/x") as store:
        for attempt in (
            store.write(KEY, views(b"x")),
            read(store, KEY, 1),
            store.begin_upload(KEY),
        ):
            with pytest.raises(Unavailable, match="no such bucket"):
                await attempt


async def test_a_server_that_is_not_there_is_unavailable(aws_environment: S3Server) -> None:
    async with (
        aclosing(AiohttpPlane()) as plane,
        opened(
            "s3://bucket/x",
            endpoint_url="http://127.0.0.1:9",
            transfer=Transfer(plane, patience_s=0.2),
        ) as store,
    ):
        for attempt in (store.write(KEY, views(b"x")), read(store, KEY, 1)):
            with pytest.raises(Unavailable, match="could not connect"):
                await attempt


async def test_a_wrong_clock_is_corrected_from_the_servers_date(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is two hours behind: data plane, control calls and presigned URLs all work."""
    monkeypatch.setattr(aws, "our_clock", lambda: datetime.now(UTC) - timedelta(hours=2))
    await store.write(KEY, views(b"abc"))
    assert store.access.skew_s == pytest.approx(7200, abs=60)
    assert await store.sizes([KEY]) == {KEY: 3}
    assert await fetch(await store.presign(KEY)) == b"abc"


async def test_control_calls_correct_the_clock_too(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "our_clock", lambda: datetime.now(UTC) + timedelta(hours=2))
    upload = await store.begin_upload(KEY)
    await upload.part(0, 0, views(b"abc"))
    await upload.complete(3)
    assert await read(store, KEY, 3) == b"abc"


async def test_new_credentials_are_read_when_the_old_ones_are_refused(
    aws_environment: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another program renewed the file, as tools for single sign-on do: nobody has to start again."""
    file = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def credentials(secret: str) -> str:
        key = aws_environment.access_key
        return f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"

    file.write_text(credentials("old"))
    async with opened(f"s3://{aws_environment.bucket}/{tmp_path.name}") as store:
        with pytest.raises(Denied):
            await store.sizes([KEY])
        file.write_text(credentials(aws_environment.secret_key))
        await store.write(KEY, views(b"abc"))
        assert await store.sizes([KEY]) == {KEY: 3}


# Presigned URLs


async def fetch(url: str | None, method: str = "GET", data: bytes | None = None) -> bytes:
    def get() -> bytes:
        assert url is not None
        request = urllib.request.Request(url, data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()  # type: ignore[no-any-return]

    return await asyncio.to_thread(get)


async def test_presigned_urls_need_no_credentials(store: S3Store) -> None:
    await fetch(await store.presign(KEY, method="PUT"), "PUT", b"by url")
    assert await read(store, KEY, 6) == b"by url"
    assert await fetch(await store.presign(KEY)) == b"by url"
    with pytest.raises(Invalid, match="PATCH"):
        await store.presign(KEY, method="PATCH")


# Uploads


async def test_uploads_leave_nothing_open(store: S3Store) -> None:
    """Neither completed nor aborted ones, nor those that were cancelled while they began."""
    for ends in ("complete", "abort", "empty"):
        upload = await store.begin_upload(KEY)
        assert await unfinished(store) == [KEY]
        if ends != "empty":
            await upload.part(0, 0, views(b"abc"))
        await (upload.abort() if ends == "abort" else upload.complete(0 if ends == "empty" else 3))
        assert await unfinished(store) == []
    for delay_ms in range(0, 20, 2):
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(store.begin_upload(KEY))
            await asyncio.sleep(delay_ms / 1000)
            was_cancelled = task.cancel()
        if not was_cancelled:
            await task.result().abort()
    assert await unfinished(store) == []


async def test_an_upload_whose_id_got_lost_is_found_by_its_key(store: S3Store) -> None:
    """The process died between the store's answer and the catalog's record of it."""
    lost = await store.begin_upload(KEY)
    await lost.part(0, 0, views(b"abc"))
    await store.begin_upload(KEY + "-other")
    found = await store.resume_upload(KEY, "")
    assert found is not None
    assert found.token == lost.token
    await found.complete(3)
    assert await read(store, KEY, 3) == b"abc"
    assert await unfinished(store) == [KEY + "-other"]


async def test_a_resumed_upload_asks_the_store_for_its_parts(store: S3Store) -> None:
    """And a part that was sent again replaces the first."""
    data = os.urandom(PART)
    first = await store.begin_upload(KEY)
    await first.part(0, 0, views(b"x" * PART))
    await first.part(1, PART, views(b"tail"))
    second = await store.resume_upload(KEY, first.token)
    assert second is not None
    await second.part(0, 0, views(data))
    await second.complete(PART + 4)
    assert await read(store, KEY, PART + 4) == data + b"tail"


async def test_parts_are_listed_page_by_page() -> None:
    def page(first: int, last: int, is_truncated: bool) -> str:
        parts = "".join(
            f"<Part><PartNumber>{n}</PartNumber><ETag>e{n}</ETag><Size>{n}</Size></Part>"
            for n in range(first, last + 1)
        )
        truncated = str(is_truncated).lower()
        marker = f"<NextPartNumberMarker>{last}</NextPartNumberMarker>"
        return f"<R><IsTruncated>{truncated}</IsTruncated>{marker}{parts}</R>"

    def reply(request: web.Request, body: bytes) -> web.Response:
        is_second = request.query.get("part-number-marker") == "2"
        text = page(3, 4, False) if is_second else page(1, 2, True)
        return web.Response(text=text, content_type="application/xml")

    async with odd_server(reply) as store:
        parts = await store._parts(KEY, "token")
    assert parts == [Part(n, n, f"e{n}") for n in (1, 2, 3, 4)]


def test_tokens_are_read_back_as_they_were_written() -> None:
    for token in (Token("a/b", None), Token("x", "CRC64NVME"), Token("/", None)):
        assert Token.parse(str(token)) == token
    for other in ("", "a", "/", "MD5/a", "CRC64NVME/"):
        assert Token.parse(other) is None


def test_parts_must_be_whole() -> None:
    one, two, three = (Part(number, 5, "e") for number in (1, 2, 3))
    assert whole([], 0) == []
    assert whole([two, one], 10) == [one, two]
    for parts, size in [([two], 5), ([one, three], 10), ([one], 4), ([one], 6), ([], 1)]:
        assert whole(parts, size) is None


# Many keys


async def test_delete_and_sizes_take_more_keys_than_one_call(store: S3Store) -> None:
    await store.write(KEY, views(b"x"))
    await store.delete([f"objects/ab/none-{n}" for n in range(1001)] + [KEY])
    assert await store.sizes([KEY]) == {}


async def test_one_event_loop_after_the_other_and_side_by_side(store: S3Store) -> None:
    """Clients belong to loops: threads with loops of their own share a store."""
    await store.write(KEY, views(b"abc"))
    results: list[bytes] = []

    async def use() -> None:
        results.append(await read(store, KEY, 3))
        assert await store.sizes([KEY]) == {KEY: 3}
        await store.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
        await asyncio.to_thread(thread.join)
    assert results == [b"abc", b"abc"]
    assert await read(store, KEY, 3) == b"abc"


# Servers that do not behave

Answer = Callable[[web.Request, bytes], web.StreamResponse]


@asynccontextmanager
async def odd_server(answer: Answer) -> AsyncIterator[S3Store]:
    """A store whose server answers what it likes."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return answer(request, await request.read())

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handle)
    async with (
        TestServer(app) as server,
        aclosing(AiohttpPlane()) as plane,
        opened(
            "s3://bucket/x",
            endpoint_url=str(server.make_url("")).rstrip("/"),
            credentials=aws.Credentials("AK", "SK"),
            # no second chances: the answer is the test
            transfer=Transfer(plane, patience_s=0.0),
        ) as store,
    ):
        assert isinstance(store, S3Store)
        yield store


def xml(status: int, code: str, **headers: str) -> web.Response:
    text = f"<Error><Code>{code}</Code><Message>said so</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml", headers=headers)


def ranged(said: str, body: bytes = b"0123456789") -> web.Response:
    return web.Response(status=206, body=body, headers={"Content-Range": said})


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (lambda: web.Response(body=b"0123456789"), TransferError, "200 to a range"),
        (lambda: ranged("bytes 0-9/99"), TransferError, "bytes 0-9, not 5-14"),
        (lambda: ranged("bytes 5-14/99", b"0123"), TransferError, "4 bytes instead of 10"),
        (lambda: ranged("nonsense"), TransferError, "Content-Range"),
        (lambda: ranged("bytes 5-11/12", b"0123456"), Corrupt, "ends at 12"),
        (lambda: xml(200, "InternalError"), TransferError, "200"),
        (lambda: xml(416, "InvalidRange"), Corrupt, "416"),
        (lambda: xml(403, "AccessDenied"), Denied, "AccessDenied"),
        (lambda: xml(503, "SlowDown"), Unavailable, "SlowDown"),
        (lambda: xml(400, "Odd"), TransferError, "Odd"),
    ],
)
async def test_wrong_answers_to_a_read(
    answer: Callable[[], web.Response], error: type[Exception], says: str
) -> None:
    async with odd_server(lambda request, body: answer()) as store:
        with pytest.raises(error, match=says) as caught:
            await read(store, KEY, 10, 5)
    assert KEY in str(caught.value)
    assert "Signature" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (lambda: xml(200, "InternalError"), TransferError, "InternalError"),
        (lambda: xml(403, "AccessDenied"), Denied, "AccessDenied"),
        (lambda: xml(412, "PreconditionFailed"), Conflict, "412"),
        (lambda: xml(500, "InternalError"), Unavailable, "InternalError"),
        (lambda: web.Response(status=200), TransferError, "no ETag"),
    ],
)
async def test_wrong_answers_to_a_part(
    answer: Callable[[], web.Response], error: type[Exception], says: str
) -> None:
    begun = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"

    def reply(request: web.Request, body: bytes) -> web.Response:
        if request.method == "POST":
            return web.Response(text=begun, content_type="application/xml")
        return answer()

    async with odd_server(reply) as store:
        upload = await store.begin_upload(KEY)
        with pytest.raises(error, match=says):
            await upload.part(0, 0, views(b"abc"))


async def test_an_upload_that_began_twice_is_left_once() -> None:
    """The first answer got lost and the request was repeated: the unknown twin is aborted."""
    uploads: list[str] = []

    def reply(request: web.Request, body: bytes) -> web.Response:
        if request.method == "POST":
            uploads.append(f"id{len(uploads)}")
            if len(uploads) == 1:
                return xml(500, "InternalError")
            text = f"<R><UploadId>{uploads[-1]}</UploadId></R>"
        elif request.method == "DELETE":
            uploads.remove(request.query["uploadId"])
            return web.Response(status=204)
        else:
            since = "<Initiated>2026-01-01T00:00:00Z</Initiated>"
            listed = (f"<Key>x/{KEY}</Key><UploadId>{each}</UploadId>{since}" for each in uploads)
            text = f"<R>{''.join(f'<Upload>{each}</Upload>' for each in listed)}</R>"
        return web.Response(text=text, content_type="application/xml")

    async with odd_server(reply) as store:
        upload = await store.begin_upload(KEY)
    assert upload.token == "/id1"
    assert uploads == ["id1"]


async def test_a_bucket_in_another_region_is_followed() -> None:
    """S3 says where it is, with a redirect that has no target, or with a 400."""
    regions: list[str] = []

    def reply(request: web.Request, body: bytes) -> web.Response:
        region = request.headers["Authorization"].split("/")[2]
        regions.append(region)
        if region == "us-east-1":
            return xml(301, "PermanentRedirect", **{"x-amz-bucket-region": "eu-1"})
        if region == "eu-1":
            text = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-2</Region></Error>"
            return web.Response(status=400, text=text)
        return ranged("bytes 0-2/3", b"abc")

    async with odd_server(reply) as store:
        assert await read(store, KEY, 3) == b"abc"
        assert await read(store, KEY, 3) == b"abc"
    assert regions == ["us-east-1", "eu-1", "eu-2", "eu-2"]


async def test_a_store_that_sends_in_circles_ends() -> None:
    def reply(request: web.Request, body: bytes) -> web.Response:
        here = request.headers["Authorization"].split("/")[2]
        there = "eu-1" if here == "us-east-1" else "us-east-1"
        return xml(301, "PermanentRedirect", **{"x-amz-bucket-region": there})

    async with odd_server(reply) as store:
        with pytest.raises(TransferError, match="PermanentRedirect"):
            await read(store, KEY, 3)


async def test_complete_finds_the_object_after_a_lost_answer(store: S3Store) -> None:
    """Completed by another call; but not if what lies there has another size."""
    upload = await store.begin_upload(KEY)
    await upload.part(0, 0, views(b"abc"))
    twin = await store.resume_upload(KEY, upload.token)
    assert twin is not None
    await twin.complete(3)
    await upload.complete(3)
    await store.write(KEY, views(b"abcd"))
    with pytest.raises(Exception, match="not in the store"):
        await upload.complete(3)


async def test_bulk_delete_falls_back_to_single_ones() -> None:
    """Some stores have no DeleteObjects, or want a checksum with it that is not sent."""
    for refusal in (lambda: xml(501, "NotImplemented"), lambda: xml(400, "MissingContentMD5")):
        seen: list[str] = []

        def reply(
            request: web.Request,
            body: bytes,
            refusal: Callable[[], web.Response] = refusal,
            seen: list[str] = seen,
        ) -> web.Response:
            seen.append(f"{request.method} {request.path}")
            if request.method == "POST":
                return refusal()
            return web.Response(status=204)

        async with odd_server(reply) as store:
            await store.delete(["a", "b"])
            await store.delete(["c"])
        singles = [line for line in seen if line.startswith("DELETE")]
        assert sorted(singles) == [f"DELETE /bucket/x/{key}" for key in "abc"]
        assert seen[-1] == "DELETE /bucket/x/c"
        posts = [line for line in seen if line.startswith("POST")]
        assert posts == seen[: len(posts)]  # asked at the first delete only


# What the store is found to do, and checksums


async def test_probe_finds_out_what_the_server_does(store: S3Store) -> None:
    """SeaweedFS does it all; nothing of the probe stays behind."""
    facts = await probe(store)
    assert facts == StoreFacts(
        checksum="CRC64NVME",
        honours_if_none_match=True,
        refuses_expired_urls=True,
        refuses_small_parts=True,
        lists_uploads=True,
        clock_skew_s=0.0,
    )
    assert (await store.list_page()).objects == []
    assert await unfinished(store) == []


class DamagingPlane(AiohttpPlane):
    """Inverts a byte of every so many bodies on their way out."""

    def __init__(self, damages: int) -> None:
        super().__init__()
        self.damages = damages

    async def put(
        self, url: str, headers: Mapping[str, str], buffers: Sequence[memoryview]
    ) -> ResponseHead:
        if self.damages:
            self.damages -= 1
            data = bytearray(b"".join(buffers))
            data[0] ^= 1
            buffers = [memoryview(data)]
        return await super().put(url, headers, buffers)


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C"])
async def test_bytes_damaged_on_their_way_are_sent_again(
    aws_environment: S3Server, tmp_path: Path, algorithm: str
) -> None:
    """Where the store verifies a checksum: objects and parts, resumed ones too; in the end it is an error."""
    url = f"s3://{aws_environment.bucket}/{tmp_path.name}"
    async with (
        aclosing(DamagingPlane(0)) as plane,
        opened(url, transfer=Transfer(plane), checksum=algorithm) as store,
    ):
        data = os.urandom(2 << 20)
        await store.write(KEY, views(data[:100], data[100:]))
        upload = await store.begin_upload(KEY + "2")
        plane.damages = 1
        await upload.part(0, 0, views(data))
        await upload.complete(len(data))
        resumed = await store.begin_upload(KEY + "3")
        again = await store.resume_upload(KEY + "3", resumed.token)
        assert again is not None
        plane.damages = 2
        await again.part(0, 0, views(b"abc"))
        await again.complete(3)
        assert await read(store, KEY, len(data)) == data
        assert await read(store, KEY + "2", len(data)) == data
        assert await read(store, KEY + "3", 3) == b"abc"
        plane.damages = 100
        with pytest.raises(TransferError, match=KEY):
            await store.write(KEY + "4", views(data))
        assert await store.sizes([KEY + "4"]) == {}


@pytest.mark.parametrize("algorithm", ["MD5", ""])
async def test_unknown_checksums_are_refused(bare: Path, algorithm: str) -> None:
    with pytest.raises(Invalid, match="CRC64NVME"):
        await open_store("s3://bucket/x", checksum=algorithm)
