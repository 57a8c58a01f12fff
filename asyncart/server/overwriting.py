"""Whether the bucket can be told to write an object once: found out once, remembered by the catalog.

A signed PUT holds until it expires, also when the object is stored and part of a version by then. Whoever
has the URL could replace the bytes that others build upon: readers would find out, but the bytes would be
lost. Where the bucket honours `If-None-Match: *`, the condition is part of the signature, and nobody can.
(URLs of parts end with their upload.) Where it does not, URLs hold for as short as they do, and that is all.

Asked before the first URL is signed, by an object that the catalog knows as being written, so that a replica
killed in between leaves nothing that is not collected.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import anyio

from ..aio.trial import trial_key
from ..errors import AsyncartError

if TYPE_CHECKING:
    from ..catalog.protocol import Catalog
    from ..stores.s3 import S3Store

YES, NO = "yes", "no"
PATIENCE_S = 10.0  # of a store that does not answer
AGAIN_S = 60.0  # until it is asked anew

LOGGER = logging.getLogger(__name__)


class Overwriting:
    """Of one replica and its bucket. `entity`: in whose name the object is written that is tried."""

    def __init__(self, catalog: Catalog, entity: str) -> None:
        self._catalog = catalog
        self._entity = entity
        self._is_prevented: bool | None = None
        self._asking = anyio.Lock()
        self._ask_at = 0.0

    async def is_prevented(self, store: S3Store) -> bool:
        """Whether URLs to PUT are to be for new objects only. False while it is not known."""
        if self._is_prevented is None:
            async with self._asking:
                if self._is_prevented is None and time.monotonic() >= self._ask_at:
                    self._is_prevented = await self._found(store)
                    self._ask_at = time.monotonic() + AGAIN_S
        return bool(self._is_prevented)

    async def _found(self, store: S3Store) -> bool | None:
        # Another endpoint is another store, whatever its buckets are called.
        fact = f"writes once {store.url} {store.access.settings.endpoint_url or 'aws'}"
        try:
            known = await self._catalog.get_fact(fact)
            if known is not None:
                return known == YES
            with anyio.fail_after(PATIENCE_S):
                found = await self._tried(store)
            if found is not None:
                await self._catalog.set_fact(fact, YES if found else NO)
        except (AsyncartError, TimeoutError) as error:
            LOGGER.warning("not known whether the bucket writes objects only once: %r", error)
            return None
        if not found:
            LOGGER.warning(
                "the bucket does not honour If-None-Match: whoever uploads an object can replace it for as "
                "long as the URL holds"
            )
        return found

    async def _tried(self, store: S3Store) -> bool | None:
        from ..stores.probe import writes_once

        async with trial_key(store, self._catalog, self._entity) as key:
            return await writes_once(store, key)
