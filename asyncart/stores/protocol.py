"""What the engine demands of an object store.

A few verbs over keys. Objects are immutable and named by ids that are never reused, so nothing here
needs a condition, a lock or an order: a store that ignores `If-None-Match` is as good as any. What
exists is the catalog's business; a store only keeps bytes.

Errors are asyncart's own (translated at this edge): NotFound for a missing key, Corrupt for an object
that is shorter than the range asked for, Denied, Unavailable (also: disk full).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable


class Listed(NamedTuple):
    key: str
    size: int
    modified_at: float


class Page(NamedTuple):
    """Objects in key order; pass `next` as `after` for the following page, None at the end."""

    objects: list[Listed]
    next: str | None


class Upload(Protocol):
    """One object on its way, invisible until `complete`.

    Parts may be sent concurrently and again (same index, same bytes); index counts from 0 in the
    order of offsets, without gaps. All but the last are at least `Store.part_bytes` long.
    """

    key: str
    token: str  # what a later process needs to continue or abort it ("" if nothing)

    async def part(self, index: int, offset: int, buffers: Sequence[memoryview]) -> None:
        """Store the concatenated buffers at `offset`; when it returns they may be reused."""

    async def complete(self, size: int) -> None:
        """Make the object visible and durable. `size` is the sum of all parts, in bytes.

        Of a resumed upload, parts that only the earlier attempt sent are left out where they lie behind it.
        """

    async def abort(self) -> None:
        """Forget it and free its space. Never raises for an upload that is gone already."""


class Store(Protocol):
    url: str  # for people and for the catalog's record: "file:///...", "s3://bucket/prefix"
    part_bytes: int  # smallest part that an upload takes, except its last (1 = anything)
    is_local: bool  # reads are as cheap as file reads: no cache in front of it

    def local_path(self, key: str) -> str | None:
        """The file that holds the object, for reflinks; None where there is none."""

    async def sizes(self, keys: Sequence[str]) -> dict[str, int]:
        """Sizes in bytes of those keys that exist."""

    async def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        """Fill the buffer, all of it, from `offset` on."""

    async def write(self, key: str, buffers: Sequence[memoryview]) -> None:
        """Store a whole object, visible and durable on return."""

    async def adopt(self, key: str, local_path: str) -> bool:
        """Make a file that will not change the object, without moving its bytes; durable on return.

        False, and nothing done, where that cannot be: then the bytes have to be written. The caller
        answers for the file, and checks that the object is what it wants (`local_path(key)`).
        """

    async def begin_upload(self, key: str, size_hint: int | None = None) -> Upload:
        """Start an object that is sent in parts."""

    async def resume_upload(self, key: str, token: str) -> Upload | None:
        """The upload that another attempt began; None if it is gone (then begin anew).

        With an empty token (it got lost between the store's answer and the catalog's record): the newest
        upload of that key, where the store can find it.
        """

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete those that exist; missing ones are fine."""

    async def list_page(self, prefix: str = "", after: str = "", limit: int = 1000) -> Page: ...

    async def presign(self, key: str, *, method: str = "GET", ttl_s: float = 900) -> str | None:
        """A URL that needs no credentials, or None where the store has no such thing."""

    async def aclose(self) -> None: ...


@runtime_checkable
class Caching(Protocol):
    """A store that may answer from a copy that it keeps itself."""

    async def forget_cached(self, key: str) -> bool:
        """Drop the copy of an object whose bytes were found to be wrong.

        True if they may have come from the copy: then reading again makes sense.
        """

    def for_download(self, wanted_bytes: int) -> Store:
        """The store as a download of at least that size should use it; only the first one is closed."""


async def forget_cached(store: Store, key: str) -> bool:
    """Drop the copy, if there is one. True: the wrong bytes may have come from it."""
    return isinstance(store, Caching) and await store.forget_cached(key)


def for_download(store: Store, wanted_bytes: int) -> Store:
    """The store for a download of at least that size: a large one is not copied into a cache."""
    return store.for_download(wanted_bytes) if isinstance(store, Caching) else store


async def is_worth_rereading(store: Store, key: str, reads: int) -> bool:
    """Whether to ask for bytes once more that were wrong `reads` times. A cached copy is dropped first.

    Twice from a remote store, because a bit may flip on the way; and once more where a cached copy may
    have been to blame. What a local store holds does not get better.
    """
    was_copy = await forget_cached(store, key)
    return reads < (1 if store.is_local else 2) + was_copy
