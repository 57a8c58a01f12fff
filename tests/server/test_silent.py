"""Connections that say nothing are hung up on; all others are left alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import anyio
from aiohttp import web
from talk import in_folder

from asyncart.catalog import open_catalog
from asyncart.server import silent
from asyncart.server.app import RUNNER_OPTIONS, make_app
from asyncart.server.context import ServerContext
from asyncart.server.silent import Watch
from asyncart.stores import open_store


class Fake:
    def __init__(self, requests: int) -> None:
        self._request_count = requests

    def force_close(self) -> None:
        raise AssertionError("only the watch is asked")


def test_only_those_that_never_made_a_request_are_overdue() -> None:
    now = 0.0
    watch = Watch(30.0, clock=lambda: now)
    quiet, busy, late = Fake(0), Fake(1), Fake(0)
    assert watch.overdue([quiet, busy]) == []
    now = 29.0
    assert watch.overdue([quiet, busy, late]) == []
    now = 30.0
    assert watch.overdue([quiet, busy, late]) == [quiet]
    late._request_count = 1
    now = 100.0
    assert watch.overdue([busy, late]) == []


async def test_half_a_head_is_hung_up_on(tmp_path: Path) -> None:
    """One byte, and then nothing; whoever made a request may stay."""
    catalog_url, store_url = in_folder(tmp_path)
    catalog, store = await open_catalog(catalog_url), await open_store(store_url)
    runner = web.AppRunner(make_app(ServerContext(catalog, store)), **RUNNER_OPTIONS)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
            me = f"http://127.0.0.1:{port}/api/v1/me"
            async with session.get(me) as answer:
                assert answer.status == 200
            group.start_soon(silent.hang_up, runner, 0.05)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"G")
            with anyio.fail_after(10):
                assert await reader.read() == b""
            writer.close()
            assert runner.server is not None
            assert [each._request_count for each in runner.server.connections] == [1]
            group.cancel_scope.cancel()
    finally:
        await runner.cleanup()
        await store.aclose()
        await catalog.aclose()
