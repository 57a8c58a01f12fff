"""May they? Asked in the first transaction of the handler, instead of in one before it.

A transaction is two round trips to the database and a connection of the pool, as much as the verb itself
takes, and what was allowed a transaction ago may be forbidden now. So handlers whose first act is a
transaction (`guard.JOINED`) have the question asked inside it: a refusal is raised there, and nothing has
happened. A handler that answers without any transaction has answered to somebody unknown: that is a mistake
of ours, and its answer is not given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from sqlalchemy.engine import Connection

from .around import DatabaseAround

T = TypeVar("T")

Check = Callable[[Connection], object]


class _Pending:
    def __init__(self, check: Check) -> None:
        self.check = check
        self.is_passed = False


_pending: ContextVar[_Pending | None] = ContextVar("asyncart.joined", default=None)


@contextmanager
def checked(check: Check) -> Iterator[None]:
    """The first transaction inside begins with the check, which raises what is to be raised."""
    pending = _Pending(check)
    token = _pending.set(pending)
    try:
        yield
        if not pending.is_passed:
            raise AssertionError("a handler answered without asking whether it may")
    finally:
        _pending.reset(token)


class JoinedDatabase(DatabaseAround):
    """A database whose first transaction inside `checked` is the check's, too."""

    async def _carry(
        self,
        transaction: Callable[[Callable[[Connection], T]], Awaitable[T]],
        work: Callable[[Connection], T],
    ) -> T:
        pending = _pending.get()
        is_first = pending is not None and not pending.is_passed

        def first_the_check(conn: Connection) -> T:
            if pending is not None and is_first:
                pending.check(conn)
            return work(conn)

        result = await transaction(first_the_check)
        if pending is not None:
            pending.is_passed = True
        return result
