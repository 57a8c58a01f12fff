"""What one event loop works with: settings, catalog, store, budget, threads.

Runs and Apis of one loop with the same settings share a workspace. It is opened at first use, and when
the last run on it ends it lets go of its connections; an artifact that is still in somebody's hands then
opens them again.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ..config import Settings
from ..engine.statcache import StatCache
from ..engine.tasks import Threads, cleaned_up, settled
from ..engine.tree import ManifestReader
from ..errors import Denied, Full, Invalid, Unavailable
from ..model import Content, Entry, ManifestLocation, VersionInfo
from ..stores.disk import is_full
from . import draftfolder, sent_checksum
from .ledger import CLEANUP_S, Ledger

if TYPE_CHECKING:
    from ..catalog.protocol import Catalog
    from ..net.budget import Budget
    from ..stores.protocol import Store
    from ..workers.crew import Crew

_workspaces: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Settings, Workspace]] = (
    weakref.WeakKeyDictionary()
)

DEFAULT_STORE = "default"  # what a catalog calls the folder in ASYNCART_HOME, which may be moved


class Workspace:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.threads = Threads(settings.threads)
        self.stat_cache = StatCache(
            settings.statcache_path,
            realm=settings.server or f"{settings.catalog_url}\n{settings.objects_url}",
        )
        self._users = 0
        self._opening = anyio.Lock()
        self._catalog: Catalog | None = None
        self._store: Store | None = None
        self._is_store_known = bool(settings.server)
        self._api_key = ""
        self._entity = settings.entity

    @classmethod
    def of(cls, settings: Settings) -> Workspace:
        """The running loop's workspace for these settings."""
        by_settings = _workspaces.setdefault(asyncio.get_running_loop(), {})
        if settings not in by_settings:
            by_settings[settings] = cls(settings)
        return by_settings[settings]

    def here(self) -> Workspace:
        """The same for the running loop: in a forked child, or another loop, that is another workspace."""
        return Workspace.of(self.settings)

    @property
    def is_own_catalog(self) -> bool:
        """Whether what it says was logged by this user, here: its `file://` references are their own words."""
        return not self.settings.catalog and not self.settings.server

    @property
    def budget(self) -> Budget:
        from ..net.budget import process_budget

        return process_budget(self.settings.memory_bytes)

    async def catalog(self) -> Catalog:
        await self._open()
        assert self._catalog is not None
        return self._catalog

    async def store(self) -> Store:
        await self._open()
        assert self._store is not None
        return self._store

    @property
    def entity(self) -> str:
        """Where names live that say nothing else; at a server, where that is the key's own entity, it is
        known (not empty) once `catalog` was asked for."""
        return self._entity

    async def _open(self) -> None:
        async with self._opening:
            if self._store is not None:
                return
            if self.settings.server:
                await self._open_server()
                return
            from ..catalog import open_catalog
            from ..stores import open_configured
            from ..stores.cache import with_cache

            await self.threads.run(_prepare_home, self.settings)
            opened: list[Catalog] = []
            try:
                await settled(partial(open_catalog, self.settings.catalog_url), opened.append)
                known = await _check_store(opened[0], self.settings)
                self._is_store_known = known is not None
                plain = await open_configured(
                    self.settings.objects_url,
                    stall_timeout_s=self.settings.stall_timeout_s,
                    limit_rate_bytes=self.settings.limit_rate_bytes,
                )
                sent_checksum.remember(plain, opened[0], self.settings.entity)
                store = with_cache(plain, self.settings.cache_dir, self.settings.cache_bytes)
            except BaseException:
                for catalog in opened:
                    await cleaned_up(catalog.aclose, CLEANUP_S)
                raise
            self._catalog, self._store = opened[0], store

    async def _open_server(self) -> None:
        """Catalog and store of a server share one client: what the one says, the other one uses."""
        from ..stores.cache import with_cache
        from .served import Served

        await self.threads.run(_prepare_home, self.settings)
        opened: list[Served] = []
        try:
            await settled(partial(Served.open, self.settings, self.threads), opened.append)
        except BaseException:
            for served in opened:
                await cleaned_up(served.catalog.aclose, CLEANUP_S)
            raise
        (served,) = opened
        self._api_key, self._entity = served.api_key, self.settings.entity or served.me.entity
        self._catalog = served.catalog
        self._store = with_cache(served.store, self.settings.cache_dir, self.settings.cache_bytes)

    @asynccontextmanager
    async def session(self, entity: str) -> AsyncIterator[Ledger]:
        """A writer's lease on the catalog, renewed until the block ends."""
        catalog = await self.catalog()
        first = None if self._is_store_known else self._claim_store
        async with Ledger.open(catalog, entity, first) as ledger:
            yield ledger

    async def _claim_store(self, catalog: Catalog) -> None:
        """An object is stored: from now on the catalog's objects are there."""
        if await _check_store(catalog, self.settings) is None:
            await catalog.set_fact("store", self.settings.objects or DEFAULT_STORE)
        self._is_store_known = True

    def crew(self, files: int) -> AbstractAsyncContextManager[Crew]:
        """Worker processes for a download of so many files; none where that is not worth it."""
        from ..workers.crew import crew

        count = self._worker_count(files)
        return crew(count, self.settings, self.budget, self.threads, api_key=self._api_key)

    @asynccontextmanager
    async def upload_crew(self, files: int) -> AsyncIterator[Crew]:
        """The same for an upload; they have no catalog to ask which checksum the store verifies."""
        from ..stores.cache import uncached
        from ..workers.crew import crew

        count = self._worker_count(files)
        checksum = await sent_checksum.of(uncached(await self.store())) if count else None
        async with crew(
            count, self.settings, self.budget, self.threads, checksum, self._api_key
        ) as members:
            yield members

    def _worker_count(self, files: int) -> int:
        from ..workers import choice
        from ..workers.process import can_start

        return choice.worker_count(
            self.settings,
            files,
            cores=choice.cores(),
            memory_bytes=self.budget.limit_bytes,
            can_start=can_start(),
        )

    async def relocate(self, entity: str, object_id: str, entry: Entry) -> Content | None:
        """Mark the object as damaged; another stored copy of the entry's content, if there is one."""
        catalog = await self.catalog()
        await catalog.mark_damaged([object_id])
        async with Ledger.open(catalog, entity) as ledger:
            return (await ledger.stored_contents([entry.digest])).get(entry.digest)

    def manifest_reader(self, store: Store, info: VersionInfo) -> ManifestReader:
        """The version's entries; a manifest that is found damaged is marked, so that logging heals it."""
        return manifest_reader(self.catalog, store, self.threads, info)

    def acquire(self) -> None:
        self._users += 1

    async def release(self) -> None:
        """One user less; the last one closes the connections."""
        self._users -= 1
        await self.close_unused()

    async def close_unused(self) -> None:
        """`aclose`, unless a run or an Api works with it.

        Nothing remembers the workspace then, so that a service with settings of their own for every user
        does not keep one for each; who still has it opens it again.
        """
        if self._users:
            return
        known = _workspaces.get(asyncio.get_running_loop(), {})
        if known.get(self.settings) is self:
            del known[self.settings]
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of connections and files; the next call opens them again."""
        store, self._store = self._store, None
        catalog, self._catalog = self._catalog, None
        with anyio.CancelScope(shield=True):
            try:
                if store is not None:
                    await store.aclose()
            finally:
                if catalog is not None:
                    await catalog.aclose()
                await self.threads.run(self.stat_cache.close)


def manifest_reader(
    catalog: Callable[[], Awaitable[Catalog]], store: Store, threads: Threads, info: VersionInfo
) -> ManifestReader:
    """The version's entries: see `Workspace.manifest_reader`."""

    async def damaged(object_id: str) -> str:
        await (await catalog()).mark_damaged([object_id])
        return info.name

    async def elsewhere() -> ManifestLocation:
        return (await (await catalog()).get_version(info.id)).manifest

    return ManifestReader(store, info.manifest, threads, damaged, elsewhere, info.digest)


async def _check_store(catalog: Catalog, settings: Settings) -> str | None:
    """A catalog's objects are in one store: in another one nothing that it names would be found.

    Returns the store that it knows. None: nothing was stored yet, and a mistyped one can still be corrected.
    """
    wanted = settings.objects or DEFAULT_STORE
    known = await catalog.get_fact("store")
    if known not in (None, wanted):
        raise Invalid(
            f"the objects of catalog {settings.catalog_url} are in {known}, not in {wanted}; {how_to_meet(known)}"
        )
    return known


def how_to_meet(known: str) -> str:
    """What brings a catalog together with the store that it knows."""
    objects = "leave `objects` out" if known == DEFAULT_STORE else f"set ASYNCART_OBJECTS={known}"
    return f"{objects}, or set ASYNCART_HOME to another folder"


def _prepare_home(settings: Settings) -> None:
    try:
        os.makedirs(settings.drafts_dir, exist_ok=True)
    except PermissionError as error:
        raise Denied(
            f"{settings.home} cannot be written: permission denied; set ASYNCART_HOME to a folder of yours"
        ) from error
    except OSError as error:
        kind = Full if is_full(error) else Unavailable
        raise kind(
            f"{settings.home} cannot be made: {error.strerror or error}; set ASYNCART_HOME to another folder"
        ) from error
    draftfolder.sweep(settings)
