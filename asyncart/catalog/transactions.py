"""What the catalog's verbs need of a database: to run a plain function as one transaction.

A verb is a synchronous function over a SQLAlchemy connection. It is run from start to end without
an await in between, is repeated as a whole if the database asks for that, and has happened entirely or
not at all. Two small classes do it: `sqlite.SqliteDatabase` and `postgres.PostgresDatabase`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

P = ParamSpec("P")
T = TypeVar("T")

NUMBER = "asyncart.transaction"  # in `Connection.info`: which one it is, if that matters


def not_twice(conn: Connection) -> None:
    """Said by a verb of which a second time is something else, in a transaction that writes.

    If the answer to its COMMIT gets lost, the database is asked what became of it, before anything is done
    again. That takes a round trip more. (A file loses no answers.)
    """
    if conn.dialect.name == "postgresql":
        conn.info[NUMBER] = conn.execute(select(func.txid_current())).scalar_one()


class Database(Protocol):
    """Errors are asyncart's own: those of the database are translated here."""

    name: str  # for messages: the path, or the URL without its password
    owner_is_process: bool  # a writer is a process that opened this database itself

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """A consistent view; nothing is written."""

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Durable when it returns."""

    async def write_alone(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """No other write runs at the same time: for the collector."""

    async def aclose(self) -> None: ...
