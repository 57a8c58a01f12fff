"""Catalog and store of an `asyncart server`, over one client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from .. import wire
from ..config import Settings
from ..credentials import find_key
from ..engine.tasks import Threads
from ..errors import Denied

if TYPE_CHECKING:
    from ..catalog.http import HttpCatalog
    from ..stores.server import ServerStore


class Served:
    """`me` is what the server says of itself and of the key. Closing the catalog closes the client."""

    def __init__(self, catalog: HttpCatalog, store: ServerStore, me: wire.Me, api_key: str) -> None:
        self.catalog = catalog
        self.store = store
        self.me = me
        self.api_key = api_key

    @classmethod
    async def open(cls, settings: Settings, threads: Threads) -> Served:
        """Log in with the key of the settings, or with the one that was stored for this origin."""
        from ..catalog.http import HttpCatalog
        from ..net.control import ServerClient
        from ..stores.server import ServerStore

        api_key = settings.api_key
        if not api_key:
            found = await threads.run(find_key, settings.home, settings.server)
            api_key = found.api_key if found is not None else ""
        client = ServerClient(
            settings.server,
            api_key,
            allow_insecure_http=settings.allow_insecure_http,
            stall_s=settings.stall_timeout_s,
        )
        try:
            me = await client.ask(wire.Me, "about_me", wire.AboutMe())
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await client.aclose()
            if isinstance(error, Denied) and not api_key:
                raise Denied(
                    f"{client.origin}: there is no API key for it: `asyncart login {client.origin}`, or set ASYNCART_API_KEY ({error})"
                ) from error
            raise
        store = ServerStore(
            client,
            me,
            stall_timeout_s=settings.stall_timeout_s,
            limit_rate_bytes=settings.limit_rate_bytes,
        )
        return cls(HttpCatalog(client), store, me, api_key)

    async def aclose(self) -> None:
        await self.store.aclose()
        await self.catalog.aclose()
