"""The catalog's verbs as transactions of a PostgreSQL database, over asyncpg.

Each event loop has its own pool of connections (they belong to their loop). Reads see one snapshot.
Every write holds a shared advisory lock and the collector an exclusive one, so that "nobody begins,
stores or commits while objects are condemned" is true here as it is with SQLite, where there is one
writer at a time. Deadlocks, and connections that the server closed, are repeated; verbs are
idempotent, so a commit whose answer got lost may be asked for again. Of the few that are not
(`transactions.not_twice`) the database is asked whether they were carried out.

A verb is a few dozen statements of 0.1 ms, so what is around them counts. BEGIN and the lock are one
round trip, past SQLAlchemy, whose connections are therefore in autocommit mode. The pool gives out the
connection that was used last: its statements are prepared already, and its server process has planned
them. (A small log through a server, 9 verbs in 4 requests: see bench/server.)
"""

from __future__ import annotations

import contextlib
import random
import ssl
from collections.abc import Callable
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar, cast

import anyio
import asyncpg
from anyio.lowlevel import RunVar
from sqlalchemy import func, select
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from asyncart.errors import AsyncartError, Denied, Full, Invalid, Unavailable

from .transactions import NUMBER

P = ParamSpec("P")
T = TypeVar("T")

CONNECTIONS = 8  # per event loop and process
ATTEMPTS = 6  # with pauses that add up to a few seconds: a server that restarts is back by then
STATEMENT_TIMEOUT_S = 60.0  # no verb takes seconds; this bounds a dead network
CONNECT_TIMEOUT_S = 10.0
CLEANUP_S = 5.0
PREPARED = 256  # statements kept by each connection: all verbs together have about 150

_LOCK = 0x61737963  # any number of our own
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_SHARED = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock_shared({_LOCK})"
_ALONE = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({_LOCK})"

# SQLAlchemy 2.0 hands over what asyncpg raises while connecting, 2.1 wraps it.
_ERRORS = (
    DBAPIError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    PoolTimeoutError,
    OSError,
    TimeoutError,
)
_REPEATABLE = {"40001", "40P01", "55P03"}  # serialization failure, deadlock, lock not available
_DISK_FULL = "53100"
_DOWN = ("08", "53", "57P")  # connection, resources, shut down or starting
_CLOSED = "55000"  # such as a database that takes no connections: as its administrator wants it


class _Unanswered(Exception):
    """What the COMMIT of that transaction has become is not known; if it was done, this is its result."""

    def __init__(self, number: int, result: Any, error: Exception) -> None:
        super().__init__(number)
        self.number = number
        self.result = result
        self.error = error


class PostgresDatabase:
    """See the module. One object may be used from many threads and many event loops."""

    owner_is_process = False  # the writer may be a client of the server that asks us

    def __init__(self, url: str) -> None:
        self._url = _asyncpg_url(url)
        self.name = self._url.set(drivername="postgresql").render_as_string(hide_password=True)
        self._engines: RunVar[AsyncEngine] = RunVar(f"asyncart.catalog.postgres.{id(self)}")
        self._closed = False

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._repeat(_READ, lambda conn: work(conn, *args, **kwargs))

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._repeat(_SHARED, lambda conn: work(conn, *args, **kwargs))

    async def write_alone(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._repeat(_ALONE, lambda conn: work(conn, *args, **kwargs))

    async def aclose(self) -> None:
        """Close this event loop's connections; those of other loops end with their loops."""
        self._closed = True
        try:
            engine = self._engines.get()
        except LookupError:
            return
        with anyio.move_on_after(5, shield=True):
            await engine.dispose()

    async def _repeat(self, begin: str, work: Callable[[Connection], T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._transaction(begin, work)
            except AsyncartError:
                raise  # ours already, and final: Unavailable is an OSError, too
            except _Unanswered as unanswered:
                if await self._was_committed(unanswered.number):
                    return cast("T", unanswered.result)
                error = unanswered.error
            except _ERRORS as caught:
                error = caught
            if attempt == ATTEMPTS or not _is_passing(error):
                self._raise(error)
            await _pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _was_committed(self, number: int) -> bool:
        """Of a transaction whose connection is gone, or that the server has refused."""
        status = select(func.txid_status(number))
        for attempt in range(1, ATTEMPTS + 1):
            found = await self._repeat(_READ, lambda conn: conn.execute(status).scalar_one())
            if found != "in progress":
                return bool(found == "committed")
            await _pause(attempt)  # the server has yet to notice that nobody is there any more
        raise Unavailable(
            f"{self.name}: the connection was lost, and it is not known whether this was done; "
            f"look at what is there, and repeat later"
        )

    async def _transaction(self, begin: str, work: Callable[[Connection], T]) -> T:
        conn = await self._engine().connect()
        try:
            driver = (await conn.get_raw_connection()).driver_connection
            assert driver is not None
            conn.info.pop(NUMBER, None)
            try:
                await driver.execute(begin)
                result = await conn.run_sync(work)
                try:
                    await driver.execute("COMMIT")
                except _ERRORS as error:
                    if NUMBER in conn.info:
                        raise _Unanswered(conn.info[NUMBER], result, error) from error
                    raise
            except Exception:
                await _roll_back(conn, driver)
                raise
            except (
                BaseException
            ):  # cancelled: whatever is under way there, it ends with the connection
                await _drop(conn)
                raise
            return result
        finally:
            await _close(conn)

    def _engine(self) -> AsyncEngine:
        if self._closed:
            raise Unavailable(f"{self.name}: this catalog was closed; open it again")
        try:
            return self._engines.get()
        except LookupError:
            engine = create_async_engine(
                self._url,
                pool_size=CONNECTIONS,
                max_overflow=0,
                pool_use_lifo=True,
                isolation_level="AUTOCOMMIT",  # see `_transaction`
                pool_timeout=STATEMENT_TIMEOUT_S,
                connect_args={
                    "timeout": CONNECT_TIMEOUT_S,
                    "command_timeout": STATEMENT_TIMEOUT_S,
                    "prepared_statement_cache_size": PREPARED,
                },
            )
            self._engines.set(engine)
            return engine

    def _raise(self, error: Exception) -> NoReturn:
        state = _sqlstate(error)
        why = str(getattr(error, "orig", None) or error) or type(error).__name__
        if state.startswith("28") or state == "42501":
            raise Denied(f"{self.name}: the database refuses us: {why}") from error
        if state == "3D000":
            raise Invalid(f"{self.name}: there is no such database; create it first") from error
        if state.startswith("22"):
            raise Invalid(f"text or number that PostgreSQL cannot store: {why}") from error
        if state == _DISK_FULL:
            raise Full(
                f"{self.name}: the disk of the database is full, nothing of this was written ({why}); "
                f"make room there and repeat"
            ) from error
        if _is_passing(error) or state == _CLOSED:
            raise Unavailable(
                f"{self.name}: the database does not answer ({why}); is it up? Repeat later"
            ) from error
        raise error  # a mistake of ours: let it be seen


async def _pause(attempt: int) -> None:
    await anyio.sleep(random.uniform(0, 0.05 * 2**attempt))


async def _roll_back(conn: AsyncConnection, driver: Any) -> None:
    """After an error, leave a connection that can be used again, or none."""
    is_clean = False
    with anyio.move_on_after(CLEANUP_S, shield=True), contextlib.suppress(*_ERRORS):
        if not driver.is_closed():
            await driver.execute("ROLLBACK")
            is_clean = True
    if not is_clean:
        await _drop(conn)


async def _drop(conn: AsyncConnection) -> None:
    """End the connection, which the pool then replaces."""
    if not conn.invalidated:
        with anyio.move_on_after(CLEANUP_S, shield=True):
            await conn.invalidate()


async def _close(conn: AsyncConnection) -> None:
    """Give the connection back to the pool, also when the caller was cancelled."""
    with anyio.move_on_after(CLEANUP_S, shield=True):
        await conn.close()


def _is_passing(error: Exception) -> bool:
    if isinstance(error, (OSError, TimeoutError, PoolTimeoutError)):
        return not isinstance(error, ssl.SSLCertVerificationError)
    state = _sqlstate(error)
    return (
        (isinstance(error, DBAPIError) and error.connection_invalidated)
        or state in _REPEATABLE
        or (state.startswith(_DOWN) and state != _DISK_FULL)
        or (isinstance(error, (InterfaceError, asyncpg.InterfaceError)) and not state)
    )


def _sqlstate(error: Exception) -> str:
    """PostgreSQL's five letters, of the error or of what the drivers wrapped it in."""
    seen: BaseException | None = error
    while seen is not None:
        for holder in (seen, getattr(seen, "orig", None)):
            if isinstance(state := getattr(holder, "sqlstate", None), str):
                return state
        seen = seen.__cause__
    return ""


def _asyncpg_url(url: str) -> URL:
    scheme, _, rest = url.partition("://")
    try:
        parsed = make_url(f"postgresql+asyncpg://{rest}")
    except ArgumentError as error:
        raise Invalid(f"{scheme}://...: not a database URL") from error
    if not parsed.database:
        raise Invalid(f"{scheme}://{parsed.host}: the URL names no database")
    query = dict(parsed.query)
    if "sslmode" in query:  # libpq's word; asyncpg's is "ssl"
        query["ssl"] = query.pop("sslmode")
    return parsed.set(query=query)
