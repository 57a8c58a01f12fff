"""The frozen values that travel between layers, over the wire and into a user's hands.

No I/O and no clock here. Digests are 32 raw bytes (BLAKE3-256) everywhere inside; `hex()` is for
people. Object ids are 32 lower-case hex digits: 48 bits of milliseconds, then 80 random bits, so that
they sort by age and are never reused.

A file is a list of extents of immutable objects:

- a small file (below `plan.PACK_FILE_BYTES`) is one extent of a pack and is verified by its own digest;
- a large file is a list of chunks (digest, length); its extents cover runs of whole chunks, in order,
  and every chunk is verified by its own digest;
- an empty file has no extents; a reference has no extents and carries a `Reference`.
"""

from __future__ import annotations

import enum
import os
from typing import Any

import msgspec

DIGEST_BYTES = 32


def new_object_id(now_ms: int) -> str:
    """A fresh object id: time-ordered, then 80 random bits."""
    return f"{now_ms & 0xFFFFFFFFFFFF:012x}{os.urandom(10).hex()}"


def object_key(object_id: str) -> str:
    """Where a store keeps an object. The last byte is random: it spreads objects over 256 prefixes."""
    return f"objects/{object_id[-2:]}/{object_id}"


class Extent(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """`length` bytes of object `object_id`, from `offset`."""

    object_id: str
    offset: int
    length: int


class Chunk(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A content-defined piece of a large file."""

    digest: bytes
    length: int


class Content(msgspec.Struct, frozen=True, gc=False):
    """Stored bytes: what the catalog answers to "do you have this digest?"."""

    digest: bytes
    size: int
    extents: tuple[Extent, ...]
    chunks: tuple[Chunk, ...] = ()


class Reference(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that stays where it is; `etag` is what the server of the URI called its content.

    `digest_is_content` tells whether the entry's digest is of the bytes (verified on download) or
    only of the URI and ETag.
    """

    uri: str
    etag: str | None = None
    digest_is_content: bool = False


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One path of an artifact. `size` is in bytes; for a reference of unknown size it is 0."""

    path: str
    digest: bytes
    size: int
    extents: tuple[Extent, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    executable: bool = False
    reference: Reference | None = None


class ManifestLocation(msgspec.Struct, frozen=True):
    """Where a manifest lies, and what proves it: the digest of its footer, which holds the blocks'."""

    object_id: str
    size: int
    footer_bytes: int
    footer_digest: bytes


class UploadPart(msgspec.Struct, frozen=True):
    """A part that the store has acknowledged. `digest` is the BLAKE3 of its bytes."""

    index: int
    offset: int
    length: int
    digest: bytes


# In place of an upload's token from before it is begun until the store has named it. Whoever finds that
# in the catalog asks the store for uploads of the key: the writer may have died in between.
UNKNOWN_TOKEN = "?"


class PendingUpload(msgspec.Struct, frozen=True):
    """An object that was begun and not finished: continued by the next attempt, or aborted by the sweep.

    `token` may be UNKNOWN_TOKEN; `store_token` is what `Store.resume_upload` takes.
    """

    object_id: str
    token: str
    parts: tuple[UploadPart, ...] = ()

    @property
    def store_token(self) -> str:
        return "" if self.token == UNKNOWN_TOKEN else self.token


class RunState(enum.StrEnum):
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CRASHED = "crashed"


class RunInfo(msgspec.Struct, frozen=True):
    """A run, as the catalog knows it. Times are seconds since 1970 (UTC)."""

    id: str
    entity: str
    project: str
    name: str
    job_type: str | None
    state: RunState
    created_at: float
    finished_at: float | None = None
    config: dict[str, Any] = {}


class VersionInfo(msgspec.Struct, frozen=True):
    """A version, as the catalog knows it. `size` is the sum of its entries' sizes in bytes.

    `logged_at`: when its content was logged last (again); it lives for `ttl_s` seconds from then.
    """

    id: str
    entity: str
    project: str
    collection: str
    type: str
    number: int
    digest: bytes
    size: int
    entry_count: int
    manifest: ManifestLocation
    created_at: float
    updated_at: float
    description: str | None = None
    metadata: dict[str, Any] = {}
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    is_damaged: bool = False
    ttl_s: float | None = None
    logged_at: float = 0.0

    @property
    def expires_at(self) -> float | None:
        """From then on the next collection may delete it; None: never."""
        return None if self.ttl_s is None else self.logged_at + self.ttl_s

    @property
    def version(self) -> str:
        return f"v{self.number}"

    @property
    def name(self) -> str:
        return f"{self.collection}:v{self.number}"

    @property
    def qualified_name(self) -> str:
        return f"{self.entity}/{self.project}/{self.collection}:v{self.number}"


class CollectionInfo(msgspec.Struct, frozen=True):
    """All versions of one name. `versions` counts the live ones; `size` is that of the newest."""

    entity: str
    project: str
    name: str
    type: str
    versions: int
    latest: int | None
    size: int
    created_at: float
    updated_at: float


class Progress(msgspec.Struct, frozen=True):
    """One event of a long operation; counts are totals since its start, `*_total` None while unknown.

    `stage` is "scan", "read", "upload", "commit", "download" or "verify". `bytes_deduplicated` were
    already stored (or already present in the target) and neither sent nor received.
    """

    stage: str
    files: int = 0
    files_total: int | None = None
    bytes: int = 0
    bytes_total: int | None = None
    bytes_deduplicated: int = 0
    bytes_moved: int = 0
