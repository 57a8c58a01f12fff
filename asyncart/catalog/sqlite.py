"""The catalog's verbs as transactions of a SQLite file.

Promises: "database is locked" never reaches a user, however many threads and processes write at once;
what a write returned is on disk; a cancelled caller stops waiting at once and leaves no lock behind;
a forked child can go on using a catalog that its parent opened.

How, and why so:

- Rollback journal, never WAL: SQLite below 3.51.3 can corrupt a WAL database that several processes
  write, and which SQLite the *other* process runs is not ours to know. `TRUNCATE` with
  `synchronous=FULL` is durable on return (in `DELETE` mode a power cut can bring the journal back).
- A write takes its lock at the start (`BEGIN IMMEDIATE`), so two never wait for each other. Threads
  of a process queue for a lock of their own; processes poll, in short slices, and give up only when
  nobody has finished a transaction for a minute: beside writers that make progress, waiting is fine.
- A verb runs in a worker thread from BEGIN to COMMIT. No transaction is open across an await.
- POSIX locks belong to a process and are dropped when *any* descriptor of the file is closed, so
  nothing here ever opens the database file but SQLite.
- A fork waits until no transaction is under way. SQLite keeps its idea of which locks the process
  holds in memory; copied by a fork in mid-transaction, that idea would be wrong in the child. The
  child then forgets the inherited connections, without closing them, and opens its own.
"""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Concatenate, NoReturn, ParamSpec, TypeVar
from urllib.parse import quote

import anyio
from anyio import CapacityLimiter, from_thread, to_thread
from anyio.lowlevel import RunVar
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from asyncart.errors import AsyncartError, Corrupt, Denied, Full, Invalid, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

SLICE_S = 0.25  # how long SQLite itself waits for a lock before we look around
STALL_S = 60.0  # give up when no other process has finished anything for so long
PATIENCE_S = 600.0  # and in any case
THREADS = 8  # per event loop; more only queue for the same disk
CACHE_KIB = 8192  # pages kept per connection; holds the index rows of 100,000 files
FORK_PATIENCE_S = 30.0  # a transaction in bulk takes a second or two

MIN_SQLITE = (3, 38, 0)  # JSON functions are always there, and upserts


class SqliteDatabase:
    """See the module. One object may be used from many threads and many event loops."""

    owner_is_process = True

    def __init__(self, path: str) -> None:
        if sqlite3.sqlite_version_info < MIN_SQLITE:
            wanted = ".".join(map(str, MIN_SQLITE))
            raise Unavailable(
                f"SQLite {sqlite3.sqlite_version} is too old for the catalog; "
                f"use a Python that brings SQLite {wanted} or newer"
            )
        self.name = path = os.path.abspath(path)
        self._uri = f"file:{quote(path)}?mode=rw"
        self._queue = _queue_of(path)
        self._idle: list[Connection] = []
        self._closed = False
        self._forked_midway = False
        self._engine = create_engine(
            "sqlite://", creator=self._open, poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        _databases.add(self)

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._in_thread(self._read, lambda conn: work(conn, *args, **kwargs))

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._in_thread(self._write, lambda conn: work(conn, *args, **kwargs))

    async def write_alone(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self.write(work, *args, **kwargs)  # there is never more than one

    async def make_file(self) -> None:
        """An empty file where there is none."""
        await to_thread.run_sync(self._make_file)

    async def aclose(self) -> None:
        """Close all connections: those in use when their transaction is over."""
        self._closed = True
        await to_thread.run_sync(self._close_idle)

    # one transaction

    def _read(self, work: Callable[[Connection], T], patience: _Patience) -> T:
        return self._repeat("BEGIN", work, patience)

    def _write(self, work: Callable[[Connection], T], patience: _Patience) -> T:
        queue = self._queue
        while not queue.lock.acquire(timeout=SLICE_S):
            patience.check()
        try:
            return self._repeat("BEGIN IMMEDIATE", work, patience)
        finally:
            queue.lock.release()

    def _repeat(self, begin: str, work: Callable[[Connection], T], patience: _Patience) -> T:
        while True:
            try:
                with _forks.held_off(), self._connection() as conn:
                    return _transaction(conn, begin, work, patience)
            except (DBAPIError, sqlite3.Error) as error:
                if not _is_busy(error):
                    self._raise(error)
            except UnicodeEncodeError as error:
                raise Invalid(f"text that is not Unicode cannot be stored: {error}") from error
            patience.pause()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        if self._closed:
            raise Unavailable(f"{self.name}: this catalog was closed; open it again")
        if self._forked_midway:
            raise Unavailable(
                f"{self.name}: this process was forked while a transaction was under way and cannot "
                f"use the catalog; start workers with 'spawn', or before logging"
            )
        try:
            conn = self._idle.pop()  # the one used last: its cache is warm
        except IndexError:
            conn = self._engine.connect()
        try:
            yield conn
        except BaseException as error:
            # Refused or locked out: nothing is wrong with it. Otherwise nobody meets it again.
            is_sound = isinstance(error, AsyncartError) or _is_busy(error)
            if not is_sound or conn.in_nested_transaction():
                conn.close()
            else:
                self._give_back(conn)
            raise
        self._give_back(conn)

    def _give_back(self, conn: Connection) -> None:
        self._idle.append(conn)
        if self._closed:
            self._close_idle()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._uri,
            uri=True,
            timeout=SLICE_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            for pragma in (
                "journal_mode = TRUNCATE",
                "synchronous = FULL",
                "foreign_keys = ON",
                "temp_store = MEMORY",
                f"cache_size = -{CACHE_KIB}",
            ):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_file(self) -> None:
        try:
            os.makedirs(os.path.dirname(self.name), exist_ok=True)
            if os.path.isdir(self.name):
                raise Invalid(f"{self.name}: is a directory, the catalog is a file")
            # O_EXCL: a file that is there is never opened by us, only by SQLite (see the module)
            with suppress(FileExistsError):
                os.close(os.open(self.name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
        except AsyncartError:
            raise
        except PermissionError as error:
            raise Denied(f"{self.name}: cannot create the catalog: {error.strerror}") from error
        except OSError as error:
            raise Unavailable(f"{self.name}: cannot create the catalog: {error}") from error

    def _close_idle(self) -> None:
        with _forks.held_off(), suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _after_fork(self, was_clean: bool) -> list[Connection]:
        """In the child: start afresh, and hand over what must never be closed."""
        inherited, self._idle = self._idle, []
        self._queue = _queue_of(self.name)
        self._forked_midway = not was_clean
        return inherited

    # around it

    async def _in_thread(
        self,
        run: Callable[[Callable[[Connection], T], _Patience], T],
        work: Callable[[Connection], T],
    ) -> T:
        patience = _Patience(self.name)

        def job() -> T:
            patience.begin()
            try:
                return run(work, patience)
            finally:
                patience.done.set()

        try:
            return await to_thread.run_sync(job, limiter=_limiter())
        except BaseException:
            # An asyncio task that was cancelled natively comes here while its thread still works.
            patience.cancelled.set()
            if patience.has_begun and not patience.done.is_set():
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(patience.done.wait, 5)
            raise

    def _raise(self, error: Exception) -> NoReturn:
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        name = self.name
        if primary == sqlite3.SQLITE_FULL or getattr(cause, "errno", None) == errno.ENOSPC:
            raise Full(
                f"{name}: the disk is full, nothing of this was written to the catalog; "
                f"free some space and repeat"
            ) from error
        if primary == sqlite3.SQLITE_NOTADB:
            raise Corrupt(f"{name}: is not a SQLite database; was it overwritten?") from error
        if primary == sqlite3.SQLITE_CORRUPT:
            raise Corrupt(
                f"{name}: the catalog is damaged ({cause}); restore it from a backup"
            ) from error
        if code == sqlite3.SQLITE_READONLY_DBMOVED:
            raise Unavailable(
                f"{name}: the catalog was moved or deleted while it was in use; open it again"
            ) from error
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            raise Denied(f"{name}: the catalog may not be written ({cause})") from error
        if primary == sqlite3.SQLITE_CANTOPEN:
            if os.path.exists(name):
                raise Denied(f"{name}: cannot open the catalog or write beside it") from error
            raise Unavailable(f"{name}: the catalog is gone; open it again") from error
        if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL):
            raise Unavailable(f"{name}: cannot read or write the catalog ({cause})") from error
        raise error  # a mistake of ours: let it be seen


def _transaction(
    conn: Connection, begin: str, work: Callable[[Connection], T], patience: _Patience
) -> T:
    raw = conn.connection.driver_connection
    assert raw is not None
    raw.execute(begin)
    try:
        result = work(conn)
        while True:
            try:
                raw.execute("COMMIT")
                return result
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    raise
            # Readers are being waited for, and no new ones get in: keep that, do not start over.
            patience.pause()
    except BaseException:
        with suppress(sqlite3.Error):
            if raw.in_transaction:  # SQLite takes some back by itself, as when the disk is full
                raw.execute("ROLLBACK")
        raise


def _is_busy(error: BaseException) -> bool:
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0)
    return (code & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class _Patience:
    """How long one verb waits for others, and whether anybody still waits for it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.cancelled = threading.Event()
        self.done = threading.Event()
        self.has_begun = False

    def begin(self) -> None:
        self.has_begun = True
        self._started_at = self._moved_at = time.monotonic()
        self._seen = self._stamp()

    def check(self) -> None:
        """Raise if the caller is gone, or if nobody makes progress."""
        if self.cancelled.is_set():
            raise _Abandoned
        from_thread.check_cancelled()
        now = time.monotonic()
        if (seen := self._stamp()) != self._seen:
            self._seen, self._moved_at = seen, now
        stalled_s = now - self._moved_at
        if stalled_s > STALL_S or now - self._started_at > PATIENCE_S:
            raise Unavailable(
                f"{self._path}: the catalog is kept locked{_holders(self._path)}; gave up after "
                f"{now - self._started_at:.0f} s ({stalled_s:.0f} s without any progress). Is that "
                f"process stopped or hung? End it, or repeat later: nothing needs to be unlocked"
            )

    def pause(self) -> None:
        self.check()
        time.sleep(random.uniform(0.001, 0.02))

    def _stamp(self) -> int:
        """Changes when anybody commits (a stat: opening the file would drop our locks)."""
        try:
            return os.stat(self._path).st_mtime_ns
        except OSError:
            return 0


class _Abandoned(Exception):
    """The caller was cancelled; nobody sees this."""


def _holders(path: str) -> str:
    """Who holds locks on the file, as far as Linux tells: " by process 4711 (python)"."""
    try:
        wanted = os.stat(path)
        with open("/proc/locks") as file:
            lines = [line.split() for line in file]
    except OSError:
        return " by another process"
    names = []
    for fields in lines:
        place = next((field for field in fields if field.count(":") == 2), "")
        if place.rpartition(":")[2] != str(wanted.st_ino) or "->" in fields:
            continue
        pid = fields[fields.index(place) - 1]
        with suppress(OSError), open(f"/proc/{pid}/comm") as file:
            names.append(f"{pid} ({file.read().strip()})")
    if not names:
        return " by another process"
    return f" by process {', '.join(sorted(set(names)))}"


# what all databases of the process share


class _Queue:
    """Where the threads of this process wait to write into one file."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class _Forks:
    """Lets a fork wait until SQLite holds no lock and no mutex in this process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._active = 0
        self._waiting = 0
        self.was_clean = True

    @contextmanager
    def held_off(self) -> Iterator[None]:
        changed = self._changed
        with changed:
            while self._waiting:
                changed.wait()
            self._active += 1
        try:
            yield
        finally:
            with changed:
                self._active -= 1
                if self._waiting:
                    changed.notify_all()

    def before(self) -> None:
        with self._changed:
            self._waiting += 1
            self.was_clean = self._changed.wait_for(
                lambda: self._active == 0, timeout=FORK_PATIENCE_S
            )

    def after_in_parent(self) -> None:
        with self._changed:
            self._waiting -= 1
            self._changed.notify_all()


_forks = _Forks()
_databases: weakref.WeakSet[SqliteDatabase] = weakref.WeakSet()
_queues: weakref.WeakValueDictionary[str, _Queue] = weakref.WeakValueDictionary()
_queues_guard = threading.Lock()
_inherited: list[Connection] = []  # of the parent process: kept, so that they are never closed
_limiters: RunVar[CapacityLimiter] = RunVar("asyncart.catalog.sqlite.limiter")


def _queue_of(path: str) -> _Queue:
    with _queues_guard:
        return _queues.setdefault(os.path.realpath(path), _Queue())


def _limiter() -> CapacityLimiter:
    try:
        return _limiters.get()
    except LookupError:
        limiter = CapacityLimiter(THREADS)
        _limiters.set(limiter)
        return limiter


def _after_fork_in_child() -> None:
    global _forks, _queues, _queues_guard
    was_clean = _forks.was_clean
    _forks = _Forks()
    _queues, _queues_guard = weakref.WeakValueDictionary(), threading.Lock()
    for database in list(_databases):
        _inherited.extend(database._after_fork(was_clean))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _forks.before(),
        after_in_parent=lambda: _forks.after_in_parent(),
        after_in_child=_after_fork_in_child,
    )
