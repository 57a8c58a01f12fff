"""What one replica works with, made once at start and handed to every handler.

Nothing here opens or closes anything: whoever makes a context owns the catalog and the store in it. Without
`accounts` every caller is the administrator of this server, which is why that is for loopback only
(`serve` refuses anything else).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import anyio
import msgspec

from ..catalog.sql import SqlCatalog
from .audit import AuditedDatabase
from .joined import Check, JoinedDatabase
from .limits import Limits
from .multipart import OpenUploads
from .overwriting import Overwriting

if TYPE_CHECKING:
    from ..catalog.grants import MayRead
    from ..catalog.transactions import Database
    from ..stores.protocol import Store
    from .access import Resource
    from .accounts import Accounts
    from .policy import Principal

DEFAULT_ENTITY = "local"  # where names live that a caller without an account does not qualify
URL_TTL_S = 900.0  # as long as a session's lease: a transfer asks for new ones on its way
SECRET_BYTES = 32
VERIFY_AT_ONCE = 2  # objects that are read because somebody complained about them


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What may differ between two servers.

    `public_url` is the origin that clients see, if it is not the one of their requests' Host header.
    `hosts` are the names that the server answers to; empty: to any. `checks_sizes`: an object counts as
    stored when the store has it with the size that the client says (one question per object).
    """

    public_url: str | None = None
    hosts: tuple[str, ...] = ()
    entity: str = DEFAULT_ENTITY
    url_ttl_s: float = URL_TTL_S
    checks_sizes: bool = True


class ServerContext:
    """See the module. `secret` signs URLs for bytes; replicas with a store in common share it."""

    def __init__(
        self,
        catalog: SqlCatalog,
        store: Store,
        *,
        settings: ServerSettings | None = None,
        accounts: Accounts | None = None,
        secret: bytes | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        database = catalog.database
        while isinstance(database, JoinedDatabase):  # that of another context
            database = database.database
        self.catalog = SqlCatalog(JoinedDatabase(AuditedDatabase(database)))
        self.store = store
        self.limits = limits or Limits()
        self.settings = settings or ServerSettings()
        self.accounts = accounts
        self.secret = secret or os.urandom(SECRET_BYTES)
        self.clock = clock
        self.overwriting = Overwriting(self.catalog, self.settings.entity)  # in a bucket
        self.open_uploads = OpenUploads()  # of a store that is a folder
        self.verifying = anyio.Semaphore(VERIFY_AT_ONCE)

    @property
    def database(self) -> Database:
        return self.catalog.database


class Caller(NamedTuple):
    """Who says something, in which request, and what of the things that the request names is for them.

    `origin` is how the caller addressed us: `https://host:port`. `object_ids`: those of the request that
    the caller may touch. `projects`: the only ones of the entity that the caller may see; None: all.
    `resource`: what the request leads to; None on a server that asks nobody, and where that is asked in the
    first transaction: by `check` then (see `joined`).
    `may_read` decides about objects, inside a transaction; None: the caller may read whatever is there.
    """

    context: ServerContext
    principal: Principal
    request_id: str
    origin: str
    object_ids: frozenset[str] = frozenset()
    projects: frozenset[str] | None = None
    may_read: MayRead = None
    resource: Resource | None = None
    check: Check | None = None

    @property
    def bound_to(self) -> str | None:
        """The only project that the caller's key may be used for."""
        return None if self.principal.project is None else self.principal.project[1]
