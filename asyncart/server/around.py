"""A database whose transactions do more than the work that they were asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.engine import Connection

from ..catalog.transactions import Database

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseAround(ABC):
    """`database` with `_carry` around each transaction; closing it closes that one."""

    def __init__(self, database: Database) -> None:
        self.database: Database = database
        self.name = database.name
        self.owner_is_process = database.owner_is_process

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._carry(self.database.read, lambda conn: work(conn, *args, **kwargs))

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._carry(self.database.write, lambda conn: work(conn, *args, **kwargs))

    async def write_alone(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._carry(
            self.database.write_alone, lambda conn: work(conn, *args, **kwargs)
        )

    @abstractmethod
    async def _carry(
        self,
        transaction: Callable[[Callable[[Connection], T]], Awaitable[T]],
        work: Callable[[Connection], T],
    ) -> T:
        """Run the work in such a transaction."""

    async def aclose(self) -> None:
        await self.database.aclose()
