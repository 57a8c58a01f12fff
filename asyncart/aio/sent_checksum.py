"""Which checksum goes with what is sent to a bucket: found out once, remembered by the catalog.

A store that verifies checksums refuses bytes that changed on their way, and they are sent again; without
that the first download would find out (BLAKE3 does in any case). Asked before the first upload of a catalog
into a bucket, never for readers: half a dozen tiny requests, all of one object that the catalog knows as
being written, so that a process killed in between leaves nothing that is not collected.

CRC64NVME costs 0.04 CPU seconds per GiB beside the 0.16 of BLAKE3 (8 MiB parts from memory, 2 cores, awscrt
0.27+). Without awscrt nothing is asked and nothing is sent. Whatever goes wrong, the upload goes on without
checksums: a store that refuses them is remembered, one that cannot be asked just now is asked next time.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import anyio

from ..errors import AsyncartError
from ..stores import checksums
from ..threads import run_blocking
from .trial import trial_key

if TYPE_CHECKING:
    from ..catalog.protocol import Catalog
    from ..stores.protocol import Store
    from ..stores.s3 import S3Store

NONE = "none"  # the store verifies no checksum, or refuses them
PATIENCE_S = 10.0  # of a store that does not answer: then the upload itself may be more patient

logger = logging.getLogger("asyncart.transfer")


@runtime_checkable
class Checksumming(Protocol):
    """A store that can send checksums (only S3Store is one)."""

    find_checksum: Callable[[], Awaitable[str | None]] | None

    async def sent_checksum(self) -> str | None: ...


def remember(store: Store, catalog: Catalog, entity: str) -> None:
    """Have the store ask the catalog, or be probed, when something is sent to it for the first time."""
    if isinstance(store, Checksumming):
        store.find_checksum = partial(_found, cast("S3Store", store), catalog, entity)


async def of(store: Store) -> str | None:
    """The checksum that uploads to this store send, found out now if need be."""
    return await store.sent_checksum() if isinstance(store, Checksumming) else None


async def _found(store: S3Store, catalog: Catalog, entity: str) -> str | None:
    # The import takes 30 ms: not on the caller's event loop.
    if not await run_blocking(checksums.is_available):
        return None
    # Another endpoint is another store, whatever its buckets are called.
    fact = f"checksum {store.url} {store.access.settings.endpoint_url or 'aws'}"
    try:
        known = await catalog.get_fact(fact)
        if known is None:
            with anyio.fail_after(PATIENCE_S):
                known = await _probed(store, catalog, entity) or NONE
            await catalog.set_fact(fact, known)
            logger.debug("%s verifies checksums: %s", store.url, known)
    except (AsyncartError, TimeoutError) as error:
        logger.debug("%s: not known whether it verifies checksums: %r", store.url, error)
        return None
    return known if known in checksums.SIZES else None


async def _probed(store: S3Store, catalog: Catalog, entity: str) -> str | None:
    from ..stores.probe import verified_checksum

    async with trial_key(store, catalog, entity) as key:
        return await verified_checksum(store, key)
