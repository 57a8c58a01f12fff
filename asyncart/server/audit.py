"""What is written to the audit log, and when: every change of names, rights or existence, as it commits.

Which routes those are, their policies say (`is_audited`). The router says who does what (`recording`), and
the database that handlers are given (`AuditedDatabase`) adds the row in the transaction of the handler's
first write, which is the change. If that fails or changes nothing durable, so does the row.

A row holds what the request said, but for what is bulk (metadata, lists of objects). No request of an
audited route holds a secret; keys are made by the server and named by their ids.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
from sqlalchemy.engine import Connection

from ..catalog import audit
from ..catalog.audit import Deed
from ..catalog.protocol import Collected, Committed
from ..catalog.transactions import Database
from ..model import VersionInfo
from ..wire import Key, Request
from .around import DatabaseAround
from .policy import Principal

P = ParamSpec("P")
T = TypeVar("T")

# Who ends versions whose time to live is over, when nobody asked for it.
SYSTEM = Principal(user_id=0, user="asyncart", key_id="", scopes=frozenset())

BULK = {"metadata", "manifest", "digest", "session_id", "draft_id", "calls", "expected"}
MOST_TEXT = 300  # characters of one value
MOST_ITEMS = 100  # of one list


class _Pending:
    def __init__(self, deed: Deed) -> None:
        self.deed = deed
        self.is_written = False


_pending: ContextVar[_Pending | None] = ContextVar("asyncart.audit", default=None)


@contextmanager
def recording(
    principal: Principal,
    action: str,
    request: Request,
    request_id: str,
    *,
    entity: str | None = None,
    project: str | None = None,
    subject: str = "",
) -> Iterator[None]:
    """The first write inside is that deed."""
    deed = Deed(
        user_id=principal.user_id,
        user=principal.user,
        key_id=principal.key_id,
        request_id=request_id,
        action=action,
        entity=entity if entity is not None else getattr(request, "entity", None),
        project=project if project is not None else getattr(request, "project", None),
        subject=subject or _subject(request),
        detail=_detail(request),
    )
    token = _pending.set(_Pending(deed))
    try:
        yield
    finally:
        _pending.reset(token)


class AuditedDatabase(DatabaseAround):
    """A database whose writes carry the deed that is being recorded, if one is."""

    def __init__(self, database: Database) -> None:
        # or there would be two rows
        super().__init__(database.database if isinstance(database, AuditedDatabase) else database)

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self.database.read(work, *args, **kwargs)

    async def _carry(
        self,
        transaction: Callable[[Callable[[Connection], T]], Awaitable[T]],
        work: Callable[[Connection], T],
    ) -> T:
        pending = _pending.get()
        deed = pending.deed if pending is not None and not pending.is_written else None

        def then_the_deed(conn: Connection) -> T:
            result = work(conn)
            if deed is not None and not _is_idle(result):
                audit.append(conn, deed._replace(detail=deed.detail | _result(result)))
            return result

        result = await transaction(then_the_deed)
        if pending is not None:
            pending.is_written = True
        return result


def _is_idle(result: object) -> bool:
    """A collection that ended no version; what nothing reaches is nobody's any more."""
    return isinstance(result, Collected) and not result.expired_versions


def _subject(request: Request) -> str:
    """What the request names first."""
    for field in ("collection", "version_id", "user", "name", "key_id", "pattern"):
        if isinstance(value := getattr(request, field, None), str):
            return value
    return ""


def _detail(request: Request) -> dict[str, Any]:
    said = msgspec.to_builtins(request)
    return {name: _short(value) for name, value in said.items() if name not in BULK}


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MOST_TEXT:
        return f"{value[:MOST_TEXT]}... ({len(value)} characters)"
    if isinstance(value, list):
        return [_short(item) for item in value[:MOST_ITEMS]] + ["..."] * (len(value) > MOST_ITEMS)
    return value


def _result(result: object) -> dict[str, Any]:
    """What became of it, where the request does not say that."""
    match result:
        case Committed():
            return {"version": result.version.version, "is_new": result.is_new}
        case Collected():
            return {"expired": _short([each.qualified_name for each in result.expired_versions])}
        case Key():
            return {"key_id": result.id, "expires_at": result.expires_at}
        case list() if found := [each for each in result if isinstance(each, VersionInfo)]:
            return {"versions": _short([version.version for version in found])}
        case _:
            return {}
