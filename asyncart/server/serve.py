"""One replica, from its options to its end.

`serve` opens the catalog and the store, refuses what must not be (see `options`), answers requests until
it is told to end, and then leaves without anybody noticing (see `drain`). A replica keeps nothing: any
number of them work on one catalog and one bucket, and any of them may be killed at any time.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from aiohttp import web
from sqlalchemy.engine import Connection

from ..aio.collect import collect_from
from ..catalog import facts, idempotency, open_catalog, sessions
from ..catalog.sql import SqlCatalog
from ..errors import Denied, Invalid, Unavailable
from ..stores import open_configured
from ..stores.protocol import Store
from ..wire import CollectGarbage
from . import audit, guard, logs, silent, sweep
from .app import RUNNER_OPTIONS, make_app
from .context import ServerContext, ServerSettings
from .drain import Drain, on_signals
from .health import Readiness
from .metrics import Metrics, Sample
from .operations import Operations
from .options import ServerOptions, check, origin_of

if TYPE_CHECKING:
    from .accounts import Accounts

STALL_S = 30.0  # of the server's own conversation with the store
CLEANUP_S = 5.0  # for connections that do not close
CUT_OFF_S = 0.5  # for what is still being sent when requests had all the time that they were given
SECRET, SECRET_BYTES = "server.secret", 32
BACKLOG = 1024  # connections that wait to be taken: a burst of clients after a replica went away


class Started(msgspec.Struct, frozen=True):
    """What a server that takes requests now tells whoever started it. `admin_key` is shown only once."""

    url: str
    host: str
    port: int
    catalog: str
    store: str
    admin_key: str | None = None

    def __repr__(self) -> str:
        return f"Started(url={self.url!r}, ...)"


async def serve(
    options: ServerOptions,
    *,
    started: Callable[[Started], None],
    drain: Drain | None = None,
) -> None:
    """Answer requests until it is time to end, and return when all is done.

    That is after SIGTERM or SIGINT, or with a `drain` of the caller's, when that is requested.
    """
    check(options)
    ending = drain or Drain()
    with contextlib.nullcontext() if drain is not None else on_signals(ending):
        async with opened(options) as context:
            operations = make_operations(context, ending)
            async with listening(context, operations, options) as (runner, site):
                # It is shown only once: so nothing may fail between making it and that.
                admin_key = await _first_key(context)
                started(_announcement(options, context, runner, admin_key))
                await _work_until(ending, context, options, runner)
                await ending.grace(options.drain_s)
                await site.stop()
                if not await ending.settled(options.stop_s):
                    logs.event(
                        f"{ending.in_flight} requests are cut off: they took longer than "
                        f"{options.stop_s:g} s",
                        level=logging.WARNING,
                    )
    logs.event("ended")


async def _work_until(
    ending: Drain, context: ServerContext, options: ServerOptions, runner: web.AppRunner
) -> None:
    """Background work, until the replica is to end; it is broken off then."""
    async with anyio.create_task_group() as background:
        background.start_soon(silent.hang_up, runner)
        if options.sweep_s:
            background.start_soon(
                sweep.sweep_regularly, context.database, sweep_work(context), options.sweep_s
            )
        await ending.requested()
        logs.event("draining", grace_s=options.drain_s)
        background.cancel_scope.cancel()


@asynccontextmanager
async def opened(options: ServerOptions) -> AsyncIterator[ServerContext]:
    """The context of a replica: its catalog and its store."""
    _make_folder(options)
    async with contextlib.AsyncExitStack() as stack:
        catalog = await open_catalog(options.catalog_url)
        assert isinstance(catalog, SqlCatalog)
        stack.push_async_callback(_closed, catalog)
        await _check_store(catalog, options)
        store = await open_configured(
            options.objects_url, stall_timeout_s=STALL_S, limit_rate_bytes=0
        )
        stack.push_async_callback(_closed, store)
        settings = ServerSettings(
            public_url=options.base_url.rstrip("/") or None, hosts=tuple(options.host_names())
        )
        context = ServerContext(
            catalog,
            store,
            settings=settings,
            accounts=_accounts(catalog, options),
            secret=await _secret(catalog),
        )
        yield context


@asynccontextmanager
async def listening(
    context: ServerContext, operations: Operations, options: ServerOptions
) -> AsyncIterator[tuple[web.AppRunner, web.TCPSite]]:
    """Requests are taken inside. On the way out, connections that are idle are closed."""
    app = make_app(context)
    operations.install(app)
    runner = web.AppRunner(
        app,
        access_log=logs.LOGGER,
        access_log_class=operations.access_log(),
        handle_signals=False,
        shutdown_timeout=CUT_OFF_S,
        **RUNNER_OPTIONS,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, options.host or None, options.port, backlog=BACKLOG)
        await _listen(site, options)
        yield runner, site
    finally:
        with anyio.move_on_after(2 * CLEANUP_S, shield=True):
            await runner.cleanup()


def make_operations(context: ServerContext, drain: Drain) -> Operations:
    readiness = Readiness(context.database, context.store, drain)
    return Operations(
        drain, readiness, Metrics(), partial(_samples, context), partial(guard.may_watch, context)
    )


def sweep_work(context: ServerContext) -> Mapping[str, sweep.Work]:
    """What is swept: expired sessions, what they left half done, what nothing reaches, and answers that
    were kept for clients who did not hear them."""

    async def garbage() -> Mapping[str, Any]:
        with audit.recording(audit.SYSTEM, "collect_garbage", CollectGarbage(), ""):
            report = await collect_from(context.catalog, context.store)
        return {name: value for name, value in msgspec.to_builtins(report).items() if value}

    async def answers() -> Mapping[str, Any]:
        dropped = await context.database.write(idempotency.sweep)
        return {"dropped": dropped} if dropped else {}

    return {"garbage": garbage, "answers": answers}


async def _samples(context: ServerContext) -> list[Sample]:
    """What only the catalog knows; all replicas tell the same."""
    living = await context.database.read(sessions.count_living)
    return [Sample("asyncart_sessions", "gauge", "Writers that hold a lease.", living)]


def _accounts(catalog: SqlCatalog, options: ServerOptions) -> Accounts | None:
    if options.no_auth:
        return None
    from .accounts import Accounts

    return Accounts(catalog.database)


async def _first_key(context: ServerContext) -> str | None:
    """The first administrator's key, if it was made just now."""
    if context.accounts is None:
        return None
    from .accounts import ensure_admin

    return await ensure_admin(context.accounts)


async def _secret(catalog: SqlCatalog) -> bytes:
    """Made by the first replica, and shared by all: what one of them signed, another one has to know."""
    return bytes.fromhex(await catalog.database.write_alone(_shared_secret))


def _shared_secret(conn: Connection) -> str:
    known = facts.get_fact(conn, SECRET)
    if known is None:
        known = os.urandom(SECRET_BYTES).hex()
        facts.set_fact(conn, SECRET, known)
    return known


def _make_folder(options: ServerOptions) -> None:
    """Only what is ours by default; a database or bucket that was named is somebody else's to make."""
    if options.catalog and options.objects:
        return
    try:
        os.makedirs(options.folder, mode=0o700, exist_ok=True)
    except PermissionError as error:
        raise Denied(f"{options.folder}: cannot be made: permission denied") from error
    except OSError as error:
        raise Unavailable(f"{options.folder}: cannot be made: {error.strerror or error}") from error


async def _check_store(catalog: SqlCatalog, options: ServerOptions) -> None:
    """A catalog's objects are in one store: in another one nothing that it names would be found."""
    wanted = options.objects or "default"
    known = await catalog.get_fact("store")
    if known is None:
        await catalog.set_fact("store", wanted)
    elif known != wanted:
        where = f"with --objects {known}" if known != "default" else "without --objects"
        raise Invalid(
            f"the objects of this catalog are in {known}, not in {wanted}; start the server {where}"
        )


async def _listen(site: web.TCPSite, options: ServerOptions) -> None:
    where = origin_of(options.host, options.port).removeprefix("http://")
    try:
        await site.start()
    except PermissionError as error:
        raise Denied(f"{where}: this user may not listen there; take a port above 1023") from error
    except OSError as error:
        why = error.strerror or error
        raise Unavailable(f"{where}: cannot listen there: {why}; name another --port") from error


def _announcement(
    options: ServerOptions, context: ServerContext, runner: web.AppRunner, admin_key: str | None
) -> Started:
    host, port = runner.addresses[0][:2]
    url = options.base_url.rstrip("/") or origin_of(options.host, port)
    logs.event("listening", url=url, catalog=context.database.name, store=context.store.url)
    return Started(url, host, port, context.database.name, context.store.url, admin_key)


async def _closed(thing: SqlCatalog | Store) -> None:
    with anyio.move_on_after(CLEANUP_S, shield=True):
        await thing.aclose()
