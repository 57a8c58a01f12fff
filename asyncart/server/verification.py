"""Is it damaged? Read what is said to lie in an object, and believe nobody else.

A word that an object is damaged takes it away from everybody who would have used it. So the server reads it
itself: all runs of bytes whose digest the catalog knows, in the order of their offsets, up to the first one
that is wrong; of a manifest, footer and blocks, and whether they list what its version's digest says. Bounded: a
piece in memory, a few objects at once, and a time limit after which nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio
from blake3 import blake3

from ..catalog import claims
from ..catalog.claims import Claim, Claims, Listed
from ..engine.manifest import (
    MAX_ENTRY_RECORD_BYTES,
    MAX_INDEX_BYTES,
    BlockInfo,
    ContentDigest,
    Footer,
    decode_block,
)
from ..errors import Corrupt, NotFound, Unavailable
from ..model import object_key
from ..stores.protocol import Store
from ..threads import run_blocking
from .storing import of_store

if TYPE_CHECKING:
    from .context import ServerContext

PIECE_BYTES = 4 << 20
MAX_FOOTER_BYTES = MAX_INDEX_BYTES + (1 << 20)  # an index may not compress at all
PATIENCE_S = 240.0  # for one call: the client waits 300 s for its answer
READS = 2  # of a wrong run: a bit may have flipped on the way


async def damaged(context: ServerContext, object_ids: Sequence[str]) -> list[str]:
    """Those that are stored and whose bytes are not what was stored."""
    found: list[str] = []
    with anyio.move_on_after(PATIENCE_S) as limit:
        for object_id in object_ids:
            async with context.verifying:
                known = await context.database.read(claims.of_object, object_id)
                if known is None or known.is_damaged:
                    continue
                if not await _is_right(context.store, object_id, known):
                    found.append(object_id)
    if limit.cancelled_caught and not found:
        raise Unavailable(
            f"{len(object_ids)} objects were not read within {PATIENCE_S:.0f} s; ask for fewer"
        )
    return found


async def _is_right(store: Store, object_id: str, known: Claims) -> bool:
    key = object_key(object_id)
    with of_store():
        if (await store.sizes([key])).get(key) != known.size:
            return False
        for claim in known.runs:
            if not await _holds(store, key, claim):
                return False
        for listed in known.lists:
            if not await _is_list(store, key, listed):
                return False
    return True


async def _holds(store: Store, key: str, claim: Claim) -> bool:
    for _ in range(READS):
        try:
            hasher = blake3()
            for start in range(0, claim.length, PIECE_BYTES):
                length = min(PIECE_BYTES, claim.length - start)
                hasher.update(await _read(store, key, claim.offset + start, length))
            if hasher.digest() == claim.digest:
                return True
        except (Corrupt, NotFound):
            return False
    return False


async def _is_list(store: Store, key: str, listed: Listed) -> bool:
    location = listed.manifest
    start = location.size - location.footer_bytes
    if start < 0 or location.footer_bytes > MAX_FOOTER_BYTES:
        return False  # whoever wrote that was no client of ours
    for _ in range(READS):
        content = ContentDigest()
        try:
            footer = Footer.decode(location, await _read(store, key, start, location.footer_bytes))
            for block in footer.blocks():
                if block.length > MAX_ENTRY_RECORD_BYTES:
                    return False
                data = await _read(store, key, block.offset, block.length)
                await run_blocking(_hash_block, content, block, data)
            return content.digest() == listed.digest
        except NotFound:
            return False
        except Corrupt:
            continue
    return False


def _hash_block(content: ContentDigest, block: BlockInfo, data: memoryview) -> None:
    entries = decode_block(block, data)
    content.update_many([entry.path for entry in entries], [entry.digest for entry in entries])


async def _read(store: Store, key: str, offset: int, length: int) -> memoryview:
    buffer = memoryview(bytearray(length))
    await store.read_into(key, offset, buffer)
    return buffer
