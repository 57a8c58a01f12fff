"""Where a bucket is, who may use it, and how its requests are signed: everything botocore knows.

Settings come from the usual AWS environment and profiles, through botocore itself: endpoint
(`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, profile), region, credentials. Path style where an endpoint is
given, virtual style otherwise, unless the profile (`s3 = addressing_style`) or the caller says which.

Promised: control calls that raise asyncart's errors; signatures for the data plane that are made when
they are used, renewed once when the store calls them expired or our clock wrong, and moved to another
region when the store says where the bucket lives. Control clients belong to one event loop each.

Importing this module takes 0.3 s and loading botocore's data 0.2 s: do both in a worker thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import aiobotocore.config
import aiobotocore.session
import anyio
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.exceptions
import botocore.session

from asyncart.errors import (
    AsyncartError,
    Conflict,
    Denied,
    Invalid,
    NotFound,
    TransferError,
    Unavailable,
)
from asyncart.net.loops import PerLoop
from asyncart.net.plane import AttemptError, error_code
from asyncart.net.retry import LONGEST_BACKOFF_S, Sign, Signed, backoff_s, retry_after_s

from .presigned import Presigner

CONNECT_S = 10.0
READ_S = 60.0  # completing a large multipart upload keeps some stores busy for that long
ATTEMPTS = 6  # of a control call, with botocore's back-off between them
CONNECTIONS = 64  # for control calls, which are few
DEFAULT_REGION = "us-east-1"
# Of AWS: buckets, and where credentials come from.
SERVICES = ("s3", "sts", "oidc", "portal.sso", "signin")
NOTABLE_SKEW_S = 30.0
REPEATED = frozenset({408, 409, 425, 429})  # by us: botocore does it for 5xx, and for some codes
SKEW = "asyncart_skew_s"  # under this name in the context of a botocore request
REGION_HEADER = "x-amz-bucket-region"

Headers = Mapping[str, str]
NO_HEADERS: Headers = {}

# Codes that a fresh signature can cure.
_SIGN_AGAIN = frozenset(
    {"ExpiredToken", "RequestTimeTooSkewed", "TokenRefreshRequired", "RequestExpired"}
)


_BAD_DIGEST = frozenset({"BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest"})


class Credentials(NamedTuple):
    """Given by the caller, in place of those of the environment."""

    access_key: str
    secret_key: str
    token: str | None = None


class Settings(NamedTuple):
    """Where the bucket is. `endpoint_url` is None for AWS itself."""

    bucket: str
    endpoint_url: str | None
    region: str
    is_path_style: bool
    profile: str | None
    credentials: Credentials | None


def find_settings(
    bucket: str,
    *,
    endpoint_url: str | None = None,
    region: str | None = None,
    profile: str | None = None,
    addressing_style: str | None = None,
    credentials: Credentials | None = None,
) -> Settings:
    """Ask the environment and the profile for what was not given. Reads files: for a worker thread."""
    try:
        session = botocore.session.Session(profile=profile)
        session.register_component("data_loader", _loader())
        configured = _endpoint(session, ignore_configured=False)
        if endpoint_url is None and configured != _endpoint(session, ignore_configured=True):
            endpoint_url = configured
        of_profile = session.get_scoped_config().get("s3") or {}
        region = region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
    except botocore.exceptions.BotoCoreError as error:
        raise Invalid(f"s3://{bucket}: the AWS configuration cannot be used: {error}") from error
    style = addressing_style or of_profile.get("addressing_style")
    return Settings(
        bucket=bucket,
        endpoint_url=endpoint_url,
        region=region or DEFAULT_REGION,
        is_path_style=is_path_style(bucket, endpoint_url, style),
        profile=profile,
        credentials=credentials,
    )


def is_path_style(bucket: str, endpoint_url: str | None, style: str | None) -> bool:
    """Whether the bucket stands in the path of a URL, or in the host name."""
    if style in ("path", "virtual"):
        return style == "path"
    return endpoint_url is not None or "." in bucket  # certificates do not cover dots


def base_url(settings: Settings, endpoint_url: str) -> str:
    """What stands before a key in the URL of an object."""
    endpoint_url = endpoint_url.rstrip("/")
    if settings.is_path_style:
        return f"{endpoint_url}/{settings.bucket}/"
    scheme, _, host = endpoint_url.partition("://")
    return f"{scheme}://{settings.bucket}.{host}/"


@functools.cache
def _loader() -> Any:
    """botocore's data, parsed once for the clients of all stores and event loops.

    Without the regions of the services that we and its credentials never call: 6 MB, and 22,000 of the
    124,000 objects that the garbage collector walks through.
    """
    loader = botocore.session.Session().get_component("data_loader")
    for partition in loader.load_data("endpoints")["partitions"]:  # the loader's own, kept by it
        services = partition["services"]
        partition["services"] = {name: services[name] for name in SERVICES if name in services}
    return loader


def _endpoint(session: botocore.session.Session, *, ignore_configured: bool) -> str:
    """The endpoint that botocore would use; making the client also loads its data."""
    client = session.create_client(
        "s3",
        region_name=DEFAULT_REGION,
        aws_access_key_id="unused",
        aws_secret_access_key="unused",
        config=botocore.config.Config(ignore_configured_endpoint_urls=ignore_configured),
    )
    try:
        return str(client.meta.endpoint_url)
    finally:
        client.close()


class _Client(NamedTuple):
    """What requests of one event loop go out with, until credentials or region change."""

    client: Any
    credentials: Any
    region: str
    base_url: str


class _Loop:
    """What one event loop has: the clients in use and, until the end, those before them."""

    def __init__(self) -> None:
        self.connecting = anyio.Lock()
        self.current: _Client | None = None
        self.stack = AsyncExitStack()


class Access:
    """Control calls to one bucket, and signatures for everything else.

    `url` leads the messages ("s3://bucket/prefix").
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self.settings = settings
        self.url = url
        self._region = settings.region
        self.skew_s = 0.0  # the store's clock minus ours, once the store has complained
        self._loops = PerLoop(_Loop)

    async def call(self, operation: str, what: str, **params: Any) -> dict[str, Any]:
        """A control call, named as botocore's client methods are; `what` is for messages."""
        may_renew = True
        failures = 0
        while True:
            used = await self._connected()
            try:
                with _translated(what):
                    answer: dict[str, Any] = await getattr(used.client, operation)(
                        Bucket=self.settings.bucket, **params
                    )
                    return answer
            except AsyncartError as error:
                refusal = Refusal.of(error.__cause__)
                if refusal is None:
                    raise
                if refusal.is_repeatable and failures < ATTEMPTS - 1:
                    wait_s = max(
                        backoff_s(failures, random.random()), retry_after_s(refusal.headers)
                    )
                    failures += 1
                    await anyio.sleep(min(wait_s, LONGEST_BACKOFF_S))
                elif may_renew and self._renew(refusal, used):
                    may_renew = False
                else:
                    raise

    def signer(self, method: str, key: str, query: str = "", headers: Headers = NO_HEADERS) -> Sign:
        """For the data plane: a signature made at the moment of each attempt, so that none expires."""
        used: _Client | None = None

        async def sign(why: AttemptError | None) -> Signed:
            nonlocal used
            if why is not None and used is not None:
                self._renew(Refusal.of_attempt(why), used)
            used = await self._connected()
            with _translated(self.url):
                frozen = await used.credentials.get_frozen_credentials()
            url = used.base_url + quote(key, safe="/-_.~")
            if query:
                url += "?" + query
            return Signed(url, authorized(method, url, headers, frozen, used.region, self.skew_s))

        return sign

    async def presign(self, method: str, key: str, ttl_s: float) -> str:
        return (await self.presigner()).url(method, key, ttl_s)

    async def presigner(self) -> Presigner:
        """For many URLs that are signed now."""
        used = await self._connected()
        with _translated(self.url):
            frozen = await used.credentials.get_frozen_credentials()
        now = our_clock() + timedelta(seconds=self.skew_s)
        return Presigner(
            used.base_url,
            used.region,
            frozen.access_key,
            frozen.secret_key,
            frozen.token,
            now,
        )

    def has_moved(self, error: AsyncartError) -> bool:
        """Whether the store said that the bucket lives in another region: then repeat the request."""
        cause = error.__cause__
        if not isinstance(cause, AttemptError):
            return False  # botocore follows by itself
        region = cause.headers.get(REGION_HEADER) or _region_in(cause.body)
        if not region or region == self._region:
            return False
        self._region = region
        return True

    async def aclose(self) -> None:
        running = asyncio.get_running_loop()
        for loop, state in self._loops.take_all().items():
            if loop is running:
                await state.stack.aclose()
            elif not loop.is_closed():
                # another thread's loop: only that thread may touch its sockets
                with contextlib.suppress(RuntimeError):
                    asyncio.run_coroutine_threadsafe(state.stack.aclose(), loop)

    async def _connected(self) -> _Client:
        state = self._loops.get()
        if state.current is not None and state.current.region == self._region:
            return state.current
        async with state.connecting:
            if state.current is None or state.current.region != self._region:
                with _translated(self.url):
                    state.current = await self._connect(state.stack)
            return state.current

    async def _connect(self, stack: AsyncExitStack) -> _Client:
        """A client with the credentials that the environment and the files hold now."""
        settings, region = self.settings, self._region
        session = aiobotocore.session.AioSession(profile=settings.profile)
        session.register_component("data_loader", _loader())
        if settings.credentials is not None:
            session.set_credentials(*settings.credentials)
        config = aiobotocore.config.AioConfig(
            signature_version="s3v4",
            s3={"addressing_style": "path" if settings.is_path_style else "virtual"},
            retries={"mode": "standard", "max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            max_pool_connections=CONNECTIONS,
            # newer defaults send checksums that stores other than AWS refuse
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        client = await stack.enter_async_context(
            session.create_client(
                "s3", region_name=region, endpoint_url=settings.endpoint_url, config=config
            )
        )
        client.meta.events.register("before-sign.s3", self._note_skew)
        client.meta.events.register_first("choose-signer.s3", _choose_signer)
        credentials = await session.get_credentials()
        if credentials is None:
            raise botocore.exceptions.NoCredentialsError
        return _Client(client, credentials, region, base_url(settings, client.meta.endpoint_url))

    def _note_skew(self, request: Any, **_: object) -> None:
        request.context[SKEW] = self.skew_s

    def _renew(self, refusal: Refusal, used: _Client) -> bool:
        """After a refusal that a fresh signature may cure, make the next one fresh."""
        if refusal.status not in (401, 403) and refusal.code not in _SIGN_AGAIN:
            return False
        skew_s = _skew_s(refusal.headers)
        if skew_s is not None:
            self.skew_s = skew_s if abs(skew_s) > NOTABLE_SKEW_S else 0.0
        state = self._loops.get()
        if state.current is used:
            state.current = None  # reads the credentials again; calls under way finish with the old
        return True


class Refusal(NamedTuple):
    """What a store said, through botocore or through the data plane."""

    status: int
    code: str
    headers: Headers
    is_repeatable: bool = False  # later, although botocore has not tried

    @classmethod
    def of(cls, cause: BaseException | None) -> Refusal | None:
        if isinstance(cause, AttemptError):
            return cls.of_attempt(cause)
        if isinstance(cause, botocore.exceptions.ClientError):
            facts = cause.response.get("ResponseMetadata", {})
            code = cause.response.get("Error", {}).get("Code", "")
            headers = {name.lower(): value for name, value in facts.get("HTTPHeaders", {}).items()}
            status = facts.get("HTTPStatusCode", 0)
            is_repeatable = status in REPEATED and not facts.get("MaxAttemptsReached")
            return cls(status, str(code), headers, is_repeatable)
        return None

    @classmethod
    def of_attempt(cls, error: AttemptError) -> Refusal:
        return cls(error.status or 0, error_code(error.body), error.headers)


def authorized(
    method: str, url: str, headers: Headers, credentials: Any, region: str, skew_s: float = 0.0
) -> dict[str, str]:
    """The headers of a request whose body is not part of the signature (TLS and BLAKE3 guard it)."""
    request = botocore.awsrequest.AWSRequest(method=method, url=url, headers=dict(headers))
    request.context[SKEW] = skew_s
    _UnsignedPayloadAuth(credentials, "s3", region).add_auth(request)
    return {name: str(value) for name, value in request.headers.items()}


def our_clock() -> datetime:
    return datetime.now(UTC)


class _CorrectedClock:
    """Signs with the store's time where ours is wrong."""

    def _modify_request_before_signing(self, request: Any) -> None:
        now = our_clock() + timedelta(seconds=request.context.get(SKEW, 0.0))
        request.context["timestamp"] = now.strftime(botocore.auth.SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)  # type: ignore[misc]


class _Auth(_CorrectedClock, botocore.auth.S3SigV4Auth):  # type: ignore[misc]
    """For control calls."""


class _UnsignedPayloadAuth(_Auth):
    def payload(self, request: Any) -> str:
        return str(botocore.auth.UNSIGNED_PAYLOAD)


SIGNER = "asyncart-s3v4"
botocore.auth.AUTH_TYPE_MAPS[SIGNER] = _Auth


def _choose_signer(signature_version: str, **_: object) -> str | None:
    return SIGNER if signature_version == "s3v4" else None


def _region_in(body: bytes) -> str:
    """What a 400 AuthorizationHeaderMalformed says to be right."""
    found = re.search(rb"<Region>([a-z0-9-]{1,64})</Region>", body)
    return found[1].decode("ascii") if found else ""


def _skew_s(headers: Headers) -> float | None:
    try:
        return (parsedate_to_datetime(headers["date"]) - our_clock()).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """botocore's exceptions as asyncart's."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        raise _translate(error, what) from error
    except botocore.exceptions.NoCredentialsError as error:
        raise _no_credentials(what) from error
    except (
        botocore.exceptions.HTTPClientError,
        botocore.exceptions.ConnectionError,  # not one of the former: nobody listens there
        OSError,
    ) as error:
        raise Unavailable(f"{what}: {error}; check the network and the endpoint") from error
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise Invalid(f"{what}: the AWS configuration cannot be used: {error}") from error


def _translate(error: botocore.exceptions.ClientError, what: str) -> AsyncartError:
    status, code, *_ = Refusal.of(error) or Refusal(0, "", NO_HEADERS)
    said = error.response.get("Error", {}).get("Message", "")
    failed = f"{what}: {error.operation_name} failed: {status} {code} {said}".rstrip()
    if code == "NoSuchBucket":
        return no_such_bucket(what)
    if status in (404, 410) or code in ("NoSuchUpload", "NoSuchKey"):
        return NotFound(f"{what}: not in the store ({status} {code})")
    if status in (401, 403):
        return Denied(f"{failed}; check the credentials, their rights and this machine's clock")
    if status in (409, 412):
        return Conflict(f"{failed}; somebody else writes the same object: run it again")
    if status >= 500 or status in (408, 429):
        return Unavailable(f"{failed}; check the store, then run it again")
    return TransferError(f"{failed}; the store does not accept the request", [error])


def is_damaged_in_transit(error: AsyncartError) -> bool:
    """The store received other bytes than those that the checksum is of: sending again may help."""
    refusal = Refusal.of(error.__cause__)
    return refusal is not None and refusal.code in _BAD_DIGEST


def no_such_bucket(what: str) -> Unavailable:
    """Not NotFound: that would say of each of its objects that it got lost."""
    return Unavailable(
        f"{what}: there is no such bucket; create it or correct the URL of the store"
    )


def _no_credentials(what: str) -> Denied:
    return Denied(
        f"{what}: no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "or AWS_PROFILE"
    )
