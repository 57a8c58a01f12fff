"""Who is calling, and may they? The two questions between decoding a request and carrying it out.

Without accounts (a server for one user, on the loopback interface) everybody who can reach us is its
administrator. With accounts, `policy` has a rule for every route.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
from aiohttp import web
from sqlalchemy.engine import Connection

from ..model import RunInfo, VersionInfo
from ..wire import Answer, Request, Route
from . import gate, joined
from .context import Caller, ServerContext
from .failures import KEY_ID
from .joined import Check

# Handlers that change nothing and tell nothing before their first transaction: whether they may is asked
# there (see `joined`). Of what is audited among them, the request says all that is written down.
JOINED = frozenset(
    {
        "create_run", "get_run", "finish_run", "record_use", "begin_session", "renew_session",
        "end_session", "stored_contents", "stored_chunks", "add_stored", "register_upload",
        "adopt_upload", "note_parts", "commit_version", "find_version", "resolve", "get_version", "list_versions",
    }
)  # fmt: skip

P = TypeVar("P", RunInfo, VersionInfo)

if TYPE_CHECKING:
    from .policy import Principal


async def authenticate(context: ServerContext, http: web.Request) -> Principal:
    """The caller; Unauthenticated if there is no valid key."""
    if context.accounts is None:
        return local_admin(context)
    principal = await context.accounts.authenticate(
        http.headers.get("Authorization"), http.remote or ""
    )
    http[KEY_ID] = principal.key_id
    return principal


async def may_watch(context: ServerContext, http: web.Request) -> None:
    """Whether to show metrics; Unauthenticated if not."""
    if not gate.is_of_this_machine(http.remote, http.headers):
        await authenticate(context, http)


def local_admin(context: ServerContext) -> Principal:
    from .policy import Principal, Scope

    return Principal(
        user_id=0,
        user=context.settings.entity,
        key_id="",
        scopes=frozenset(Scope),
        project=None,
        is_admin=True,
    )


async def authorize(
    caller: Caller, route: str, request: Request, *, may_join: bool
) -> Caller | Answer:
    """The caller, told what of the request is theirs; or the answer that there is nothing for them.

    Raises Denied; or, for what the caller may not even see, what the catalog says of what is not there.
    With `may_join`, that may be left to the `check` of the caller that is returned.
    """
    context, principal = caller.context, caller.principal
    if context.accounts is None:
        return caller._replace(object_ids=frozenset(getattr(request, "object_ids", ())))
    from .absent import Absent
    from .access import Access, check_scope, readable_objects, resolve
    from .policy import POLICIES

    def may_read(conn: Connection, object_ids: Collection[str]) -> Collection[str]:
        return readable_objects(conn, principal, object_ids)

    policy = POLICIES[route]
    check: Check | None = None
    if may_join and route in JOINED:
        check_scope(principal, policy.scope)
        check = partial(resolve, principal=principal, policy=policy, request=request)
        return caller._replace(may_read=may_read, check=check)
    try:
        found = await Access(context.database).check(principal, policy, request)
    except Absent as absent:
        return absent.answer
    return caller._replace(
        object_ids=found.object_ids,
        projects=found.projects,
        may_read=may_read,
        resource=found,
        check=check,
    )


def checked(caller: Caller) -> AbstractContextManager[None]:
    """What the caller was not asked yet is asked with the first transaction inside."""
    return nullcontext() if caller.check is None else joined.checked(caller.check)


def limited(context: ServerContext, principal: Principal) -> AbstractContextManager[None]:
    """One request is carried out inside. Raises TooMany."""
    if context.accounts is None:
        return nullcontext()
    return context.limits.request(principal.user_id)


def carries(caller: Caller, calls: int) -> None:
    """The request is a batch of so many calls. Raises TooMany."""
    if caller.context.accounts is not None and calls > 1:
        caller.context.limits.more(caller.principal.user_id, calls - 1)


def recorded(caller: Caller, route: str, request: Request) -> AbstractContextManager[None]:
    """What is changed inside is written to the audit log, if the route's policy says so."""
    from . import audit
    from .policy import POLICIES

    if not POLICIES[route].is_audited or getattr(request, "dry_run", False):
        return nullcontext()
    found = caller.resource
    return audit.recording(
        caller.principal,
        route,
        request,
        caller.request_id,
        entity=None if found is None else found.entity,
        project=None if found is None else found.project,
        subject="" if found is None else found.subject,
    )


async def once(
    caller: Caller,
    route: Route,
    key: str | None,
    request: Request,
    work: Callable[[], Awaitable[bytes]],
) -> bytes:
    """The answer; the one that was given before, if the same request came with the same key before."""
    from . import idempotency
    from .policy import POLICIES

    if key is None or route.method == "GET" or not POLICIES[route.name].keeps_answer:
        return await work()
    return await idempotency.once(
        caller.context.database,
        caller.principal.user_id,
        key,
        (route.method, route.path, msgspec.json.encode(request)),
        work,
    )


def origin(context: ServerContext, http: web.Request) -> str:
    """How the caller reaches us: for URLs that point here."""
    return context.settings.public_url or f"{http.scheme}://{http.host}"


async def only_readable(caller: Caller, found: Sequence[P]) -> list[P]:
    """Those runs or versions that lie in projects that the caller may read."""
    if caller.context.accounts is None:
        return list(found)
    from .access import Access

    return await Access(caller.context.database).only_readable(caller.principal, found)
