"""A server in this process, and a client that says whatever a test wants: no library of ours in between."""

from __future__ import annotations

import io
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import yarl
from aiohttp import web
from blake3 import blake3
from material import fresh_object

from asyncart import wire
from asyncart.catalog import open_catalog, upgrade
from asyncart.server.accounts import Accounts, ensure_admin
from asyncart.server.app import RUNNER_OPTIONS, make_app
from asyncart.server.context import ServerContext, ServerSettings
from asyncart.stores import open_store

ENTITY, PROJECT = "team", "bikes"


class Said(NamedTuple):
    """An answer of the server, its body parsed if it is JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any

    def ok(self) -> Any:
        assert self.status == 200, self.body
        return self.body

    def refused(self, status: int, code: str) -> str:
        """The message of the failure, which has to be this one."""
        assert (self.status, self.body["code"]) == (status, code), self.body
        assert self.body["request_id"] == self.headers["X-Request-Id"]
        return str(self.body["message"])


class Talk:
    """Requests to one server. `seen` gets every answer that was JSON, by the name of its route."""

    def __init__(
        self, url: str, session: aiohttp.ClientSession, context: ServerContext, key: str = ""
    ) -> None:
        self.url = url
        self.http = session
        self.context = context
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.seen: list[tuple[str, int, Any]] = []

    async def raw(self, method: str, path: str, **options: Any) -> Said:
        url = yarl.URL(path if path.startswith("http") else self.url + path, encoded=True)
        if isinstance(options.get("data"), bytes):
            options["data"] = io.BytesIO(options["data"])
        async with self.http.request(method, url, **options) as answer:
            body = await answer.read()
            is_json = answer.content_type == "application/json" and bool(body)
            return Said(answer.status, answer.headers, json.loads(body) if is_json else body)

    async def ask(
        self, name: str, headers: Mapping[str, str] | None = None, /, **fields: Any
    ) -> Said:
        """Call a route with fields as they are in JSON."""
        route = wire.ROUTES[name]
        path = wire.PREFIX + route.path
        rest = msgspec.to_builtins(fields)
        for field in list(rest):
            if f"{{{field}}}" in path:
                path = path.replace(f"{{{field}}}", str(rest.pop(field)))
        options: dict[str, Any] = {"headers": {**self.headers, **(headers or {})}}
        if route.method == "GET":
            options["params"] = {key: str(value) for key, value in rest.items()}
        else:
            options["json"] = rest
        said = await self.raw(route.method, path, **options)
        self.seen.append((name, said.status, said.body))
        return said

    def with_key(self, key: str) -> Talk:
        """Somebody else, who talks to the same server."""
        return Talk(self.url, self.http, self.context, key)

    # what most tests need before they begin

    async def session(self, **more: Any) -> str:
        session_id = os.urandom(16).hex()
        (await self.ask("begin_session", session_id=session_id, entity=ENTITY, **more)).ok()
        return session_id

    async def registered(self, session_id: str, **more: Any) -> tuple[str, Any]:
        object_id = fresh_object()
        said = await self.ask("register_upload", session_id=session_id, object_id=object_id, **more)
        return object_id, said.ok()

    async def send(self, signed: Mapping[str, Any], data: bytes) -> Said:
        """PUT it where a signed URL says, with the headers that belong to that."""
        return await self.raw("PUT", signed["url"], data=data, headers=signed["headers"])

    async def stored(self, session_id: str, data: bytes) -> str:
        """An object that is one content, sent by its URL."""
        object_id, answer = await self.registered(session_id, want_url=True)
        assert (await self.send(answer["url"], data)).status == 200
        (
            await self.ask(
                "add_stored",
                session_id=session_id,
                objects=[{"object_id": object_id, "size": len(data)}],
                contents=[content(data, object_id)],
            )
        ).ok()
        return object_id

    async def logged(self, session_id: str, data: bytes, **more: Any) -> Any:
        """A version of one file; its manifest is not one, which only readers would find out."""
        object_id = await self.stored(session_id, data)
        manifest_id = await self.stored(session_id, b"manifest of " + data)
        return (
            await self.ask(
                "commit_version",
                **draft(session_id, data, manifest_id, object_ids=[object_id], **more),
            )
        ).ok()


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def content(data: bytes, object_id: str) -> dict[str, Any]:
    return {
        "digest": digest(data),
        "size": len(data),
        "extents": [[object_id, 0, len(data)]],
        "chunks": [],
    }


def draft(session_id: str, data: bytes, manifest_id: str, **more: Any) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "draft_id": os.urandom(16).hex(),
        "entity": ENTITY,
        "project": PROJECT,
        "collection": "data",
        "type": "dataset",
        "digest": digest(b"version of " + data),
        "size": len(data),
        "entry_count": 1,
        "manifest": {
            "object_id": manifest_id,
            "size": len(data) + 12,
            "footer_bytes": 4,
            "footer_digest": digest(b"footer"),
        },
        **more,
    }


@asynccontextmanager
async def served(
    catalog_url: str,
    objects_url: str,
    settings: ServerSettings | None = None,
    *,
    has_accounts: bool = False,
) -> AsyncIterator[Talk]:
    """A server, and somebody who talks to it: anybody, or its first administrator."""
    if catalog_url.startswith("postgresql"):
        await upgrade(catalog_url)
    catalog = await open_catalog(catalog_url)
    store = await open_store(objects_url)
    accounts = Accounts(catalog.database) if has_accounts else None
    key = await ensure_admin(accounts) if accounts is not None else None
    context = ServerContext(catalog, store, settings=settings, accounts=accounts)
    try:
        async with running(context) as url, aiohttp.ClientSession() as session:
            yield Talk(url, session, context, key or "")
    finally:
        await store.aclose()
        await catalog.aclose()


@asynccontextmanager
async def running(context: ServerContext) -> AsyncIterator[str]:
    runner = web.AppRunner(make_app(context), **RUNNER_OPTIONS)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def in_folder(folder: Path) -> tuple[str, str]:
    """Catalog and store of a server that has nothing but a directory."""
    return str(folder / "catalog.sqlite"), str(folder / "store")
