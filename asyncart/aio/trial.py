"""An object to try something out on a store with: the catalog knows it as being written, so that a process
killed in between leaves nothing that is not collected."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from ..model import UNKNOWN_TOKEN, new_object_id, object_key
from .ledger import CLEANUP_S, Ledger

if TYPE_CHECKING:
    from ..catalog.protocol import Catalog
    from ..stores.protocol import Store


@asynccontextmanager
async def trial_key(store: Store, catalog: Catalog, entity: str) -> AsyncIterator[str]:
    """The key of a new object; it is removed and forgotten at the end of the block."""
    object_id = new_object_id(time.time_ns() // 1_000_000)
    key = object_key(object_id)
    async with Ledger.open(catalog, entity) as ledger:
        await ledger.register_upload(object_id, UNKNOWN_TOKEN, "")
        try:
            yield key
        finally:
            with anyio.move_on_after(CLEANUP_S, shield=True):
                await store.delete([key])
                await ledger.forget_upload(object_id)
