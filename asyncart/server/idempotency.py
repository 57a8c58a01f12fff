"""The header `Idempotency-Key`: the same write again gives the first answer again.

For a client that did not hear the answer. Only what succeeded is kept: after a failure nothing has
happened, and the same key may try again. Answers that hold a secret are never kept (`Policy.keeps_answer`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import anyio
from blake3 import blake3

from ..catalog import idempotency
from ..catalog.idempotency import Kept
from ..catalog.transactions import Database
from ..errors import Invalid

HEADER = "Idempotency-Key"
CLEANUP_S = 5.0

_KEY = re.compile(r"[\x21-\x7e]{1,128}")


async def once(
    database: Database,
    user_id: int,
    key: str,
    request: tuple[str, str, bytes],
    work: Callable[[], Awaitable[bytes]],
) -> bytes:
    """What `work` answers, or answered before. `request` is the method, the path and the body.

    Conflict if the key stands for another request, Unavailable while the same one is being carried out.
    """
    if not _KEY.fullmatch(key):
        raise Invalid(f"{HEADER}: 1 to 128 visible characters of ASCII, such as a UUID")
    method, path, body = request
    digest = blake3(f"{method} {path}\n".encode() + body).digest()
    reserved = await database.write(idempotency.reserve, user_id, key, digest)
    if isinstance(reserved, Kept):
        return reserved.body
    try:
        answer = await work()
    except BaseException:
        with anyio.move_on_after(CLEANUP_S, shield=True):
            await database.write(idempotency.release, reserved)
        raise
    await database.write(idempotency.keep, reserved, Kept(200, answer))
    return answer
