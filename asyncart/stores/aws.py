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
import datetime
import os
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

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
from asyncart.net.plane import AttemptError
from asyncart.net.retry import Sign, Signed

CONNECT_S = 10.0
READ_S = 60.0  # completing a large multipart upload keeps some stores busy for that long
ATTEMPTS = 6  # of a control call, with botocore's back-off between them
CONNECTIONS = 64  # for control calls, which are few
DEFAULT_REGION = "us-east-1"
NOTABLE_SKEW_S = 30.0
REGION_HEADER = "x-amz-bucket-region"

# Codes that a fresh signature can cure.
_SIGN_AGAIN = frozenset(
    {"ExpiredToken", "RequestTimeTooSkewed", "TokenRefreshRequired", "RequestExpired"}
)


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
    addressing_style: str
    profile: str | None
    credentials: Credentials | None
    loader: Any  # botocore's data, parsed once for the clients of all event loops


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
        addressing_style=style or ("path" if endpoint_url else "auto"),
        profile=profile,
        credentials=credentials,
        loader=session.get_component("data_loader"),
    )


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


class _Connection:
    """What one event loop has: its control client and its view of the credentials."""

    def __init__(self) -> None:
        self.opening = anyio.Lock()
        self.stack = AsyncExitStack()
        self.client: Any = None
        self.credentials: Any = None
        self.region = ""


class Access:
    """Control calls to one bucket, and signatures for everything else.

    `url` leads every message ("s3://bucket/prefix").
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self.settings = settings
        self.url = url
        self._region = settings.region
        self._skew_s = 0.0
        self._bases: dict[str, str] = {}  # by region
        self._connections = PerLoop(_Connection)

    async def call(self, operation: str, what: str, **params: Any) -> dict[str, Any]:
        """A control call, named as botocore's client methods are; `what` is for messages."""
        was_renewed = False
        while True:
            client = (await self._connected()).client
            try:
                answer: dict[str, Any] = await getattr(client, operation)(
                    Bucket=self.settings.bucket, **params
                )
            except botocore.exceptions.ClientError as error:
                headers = _headers(error)
                if not was_renewed and await self._renew(_code(error), _status(error), headers):
                    was_renewed = True
                    continue
                raise translate(error, what, self.settings.bucket) from error
            except botocore.exceptions.NoCredentialsError as error:
                raise self._no_credentials() from error
            except (botocore.exceptions.BotoCoreError, OSError) as error:
                raise Unavailable(
                    f"{what}: {error}; check the network and the endpoint, then run it again"
                ) from error
            return answer

    def signer(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Sign:
        """For the data plane: a signature made at the moment of each attempt, so that none expires."""

        async def sign(why: AttemptError | None) -> Signed:
            if why is not None:
                from asyncart.net.plane import error_code

                await self._renew(error_code(why.body), why.status or 0, why.headers)
            connection = await self._connected()
            if connection.credentials is None:
                raise self._no_credentials()
            frozen = await connection.credentials.get_frozen_credentials()
            url = await self._base(connection) + quote(key, safe="/-_.~")
            if query:
                url += "?" + urlencode(query, quote_via=quote, safe="-_.~")
            return Signed(url, self._authorized(method, url, headers or {}, frozen))

        return sign

    def follow(self, error: AsyncartError) -> bool:
        """Whether the store said that the bucket lives in another region: then repeat the request."""
        cause = error.__cause__
        return isinstance(cause, AttemptError) and self._move(cause.headers)

    async def presign(self, operation: str, ttl_s: float, **params: Any) -> str:
        connection = await self._connected()
        if connection.credentials is None:
            raise self._no_credentials()
        url = await connection.client.generate_presigned_url(
            operation, Params={"Bucket": self.settings.bucket, **params}, ExpiresIn=int(ttl_s)
        )
        return str(url)

    async def aclose(self) -> None:
        running = asyncio.get_running_loop()
        for loop, connection in self._connections.take_all().items():
            if loop is running:
                await connection.stack.aclose()
            elif not loop.is_closed():
                # another thread's loop: only that thread may touch its sockets
                with contextlib.suppress(RuntimeError):
                    asyncio.run_coroutine_threadsafe(connection.stack.aclose(), loop)

    async def _connected(self) -> _Connection:
        connection = self._connections.get()
        if connection.client is None or connection.region != self._region:
            async with connection.opening:
                if connection.client is None or connection.region != self._region:
                    await self._connect(connection)
        return connection

    async def _connect(self, connection: _Connection) -> None:
        settings = self.settings
        session = self._session()
        region = self._region
        config = aiobotocore.config.AioConfig(
            signature_version="s3v4",
            s3={"addressing_style": settings.addressing_style},
            retries={"mode": "standard", "max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            max_pool_connections=CONNECTIONS,
            # newer defaults send checksums that stores other than AWS refuse
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            credentials = await session.get_credentials()
            client = await connection.stack.enter_async_context(
                session.create_client(
                    "s3", region_name=region, endpoint_url=settings.endpoint_url, config=config
                )
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise Invalid(f"{self.url}: the AWS configuration cannot be used: {error}") from error
        client.meta.events.register("before-sign.s3", self._correct_clock)
        connection.client, connection.credentials = client, credentials
        connection.region = region

    def _session(self) -> aiobotocore.session.AioSession:
        session = aiobotocore.session.AioSession(profile=self.settings.profile)
        session.register_component("data_loader", self.settings.loader)
        if self.settings.credentials is not None:
            session.set_credentials(*self.settings.credentials)
        return session

    async def _base(self, connection: _Connection) -> str:
        """What stands before a key in the URL of an object: botocore decides about hosts and styles."""
        base = self._bases.get(connection.region)
        if base is None:
            params = {"Bucket": self.settings.bucket, "Key": "-"}
            url = await connection.client.generate_presigned_url("get_object", Params=params)
            base = str(url).partition("?")[0].removesuffix("-")
            self._bases[connection.region] = base
        return base

    def _authorized(
        self, method: str, url: str, headers: Mapping[str, str], credentials: Any
    ) -> dict[str, str]:
        request = botocore.awsrequest.AWSRequest(method=method, url=url, headers=dict(headers))
        request.context["clock_skew_s"] = self._skew_s
        _UnsignedPayloadAuth(credentials, "s3", self._region).add_auth(request)
        return {name: str(value) for name, value in request.headers.items()}

    async def _renew(self, code: str, status: int, headers: Mapping[str, str]) -> bool:
        """Learn what made a signature wrong. True if another one has a chance."""
        if status not in (401, 403) and code not in _SIGN_AGAIN:
            return False
        skew_s = _skew(headers)
        was_skewed = abs(skew_s - self._skew_s) > NOTABLE_SKEW_S
        if was_skewed:
            self._skew_s = skew_s
        connection = self._connections.get()
        old = connection.credentials
        if self.settings.credentials is None:
            # the environment or a file may hold newer ones than those that this process began with
            connection.credentials = await self._session().get_credentials()
        is_other = await _differ(old, connection.credentials)
        if is_other:
            await self._reconnect(connection)
        return was_skewed or is_other or code in _SIGN_AGAIN

    async def _reconnect(self, connection: _Connection) -> None:
        """Have the next control call make a client with the new credentials; old calls finish in peace."""
        connection.client = None

    def _move(self, headers: Mapping[str, str]) -> bool:
        region = headers.get(REGION_HEADER)
        if not region or region == self._region:
            return False
        self._region = region
        return True
