"""What the store says, as the server says it on.

The store knows the server only. If it refuses the server, or the server is configured wrongly, that is not
the client's right or mistake: the client is told that the server cannot work now.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import anyio

from ..errors import AsyncartError, Denied, Invalid, NotFound, TransferError, Unavailable
from ..stores.protocol import Store

FEW = 8  # a small log has one object, a large one a few at a time

LOGGER = logging.getLogger(__name__)


@contextlib.contextmanager
def of_store() -> Iterator[None]:
    """Calls of the store whose arguments are right inside."""
    try:
        yield
    except (Denied, Invalid, TransferError) as error:
        LOGGER.exception("the store refuses the server")
        raise Unavailable(
            "the store refuses the server's requests; its administrator finds the reason in its log"
        ) from error


async def sizes(store: Store, keys: Sequence[str]) -> dict[str, int]:
    """As `Store.sizes`; for a few objects of a bucket, by reading one byte of each.

    That tells the size as well, and goes through our own data plane: 0.6 ms of CPU, not 3 as a HEAD through
    botocore (two of them were a seventh of what a small log costs the server).
    """
    if store.is_local or len(keys) > FEW:
        return await store.sizes(keys)
    from ..stores.s3 import S3Store

    if not isinstance(store, S3Store):
        return await store.sizes(keys)
    found: dict[str, int] = {}
    untold: list[str] = []

    async def look(key: str) -> None:
        try:
            size = await store.read_measured(key, 0, memoryview(bytearray(1)))
        except NotFound:
            return
        except AsyncartError:  # such as that an empty object has no first byte
            size = None
        if size is None:
            untold.append(key)
        else:
            found[key] = size

    async with anyio.create_task_group() as tasks:
        for key in keys:
            tasks.start_soon(look, key)
    return found | (await store.sizes(untold) if untold else {})
