"""A server in the test's own event loop, and clients of it: what the suites of catalog and store run over."""

from __future__ import annotations

import io
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import ClientSession, web

from asyncart import wire
from asyncart.catalog.http import HttpCatalog
from asyncart.catalog.protocol import Collected
from asyncart.catalog.sql import SqlCatalog
from asyncart.catalog.transactions import Database
from asyncart.net.control import ServerClient
from asyncart.server.app import RUNNER_OPTIONS, make_app
from asyncart.server.context import ServerContext, ServerSettings
from asyncart.stores.protocol import Page, Store, Upload
from asyncart.stores.server import ServerStore, object_id_of


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    """The application on a port of this machine; its origin."""
    runner = web.AppRunner(app, shutdown_timeout=1.0, **RUNNER_OPTIONS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving(
    catalog: SqlCatalog, store: Store, *, checks_sizes: bool = True
) -> AsyncIterator[str]:
    """A server without accounts over this catalog and this store; its origin."""
    settings = ServerSettings(checks_sizes=checks_sizes)
    async with listening(make_app(ServerContext(catalog, store, settings=settings))) as origin:
        yield origin


@asynccontextmanager
async def in_turn(origins: Sequence[str]) -> AsyncIterator[str]:
    """One address for several servers: no two requests in a row go to the same one.

    A balancer of connections (see `bench.balancer`) would leave a client that keeps one with one server.
    """
    turns = itertools.cycle(origins)

    async def forward(request: web.Request) -> web.Response:
        url = f"{next(turns)}{request.path_qs}"
        body = io.BytesIO(await request.read()) if request.body_exists else None
        async with session.request(
            request.method, url, headers=request.headers, data=body
        ) as answer:
            headers = {k: v for k, v in answer.headers.items() if k not in HOP_BY_HOP}
            return web.Response(status=answer.status, headers=headers, body=await answer.read())

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", forward)
    async with ClientSession(auto_decompress=False) as session, listening(app) as origin:
        yield origin


HOP_BY_HOP = {"Connection", "Content-Length", "Date", "Server", "Transfer-Encoding"}


class EagerClient(ServerClient):
    """Says at once what others defer: for suites that expect an error where it is caused."""

    async def defer(self, name: str, request: wire.Request, scope: str) -> None:
        await super().defer(name, request, scope)
        await self.flush(scope)

    async def defer_optional(self, name: str, request: wire.Request) -> None:
        await super().defer_optional(name, request)
        await self._say_optional()


class EagerCatalog(HttpCatalog):
    """A catalog over HTTP, and what a test wants of the one behind it: its database, its collector."""

    def __init__(self, client: ServerClient, behind: SqlCatalog) -> None:
        super().__init__(client)
        self.behind = behind

    @property
    def database(self) -> Database:
        return self.behind.database

    async def collect(self, *, dry_run: bool = False) -> Collected:
        return await self.behind.collect(dry_run=dry_run)

    async def forget_objects(self, object_ids: Sequence[str]) -> None:
        await self.behind.forget_objects(object_ids)


class RegisteringStore(ServerStore):
    """Tells the catalog of every object before its first byte, as the engine does; lists what is behind."""

    def __init__(
        self, client: ServerClient, me: wire.Me, catalog: HttpCatalog, session: str, behind: Store
    ) -> None:
        super().__init__(client, me)
        self.behind = behind
        self._catalog = catalog
        self._session = session

    async def write(self, key: str, buffers: Sequence[memoryview]) -> None:
        await self._catalog.register_upload(self._session, object_id_of(key))
        await super().write(key, buffers)

    async def begin_upload(self, key: str, size_hint: int | None = None) -> Upload:
        await self._catalog.register_upload(self._session, object_id_of(key))
        return await super().begin_upload(key, size_hint)

    async def list_page(self, prefix: str = "", after: str = "", limit: int = 1000) -> Page:
        return await self.behind.list_page(prefix, after, limit)
