"""What the engine asks of the catalog while it works for one session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..model import Chunk, Content, Extent, PendingUpload, UploadPart


class Index(Protocol):
    """The catalog, seen from inside one session (see `catalog.protocol` for each verb)."""

    async def stored_contents(self, digests: Sequence[bytes]) -> dict[bytes, Content]: ...
    async def stored_chunks(self, digests: Sequence[bytes]) -> dict[bytes, Extent]: ...
    async def register_upload(self, object_id: str, token: str, resume_key: str) -> None: ...
    async def adopt_or_register(self, object_id: str, resume_key: str) -> PendingUpload | None:
        """`adopt_upload`, and where there is nothing to adopt, `register_upload` of that object."""

    async def note_parts(self, object_id: str, parts: Sequence[UploadPart]) -> None: ...
    async def forget_upload(self, object_id: str) -> None: ...
    async def add_stored(
        self,
        objects: Sequence[tuple[str, int, Sequence[tuple[Chunk, int]]]],
        contents: Sequence[Content],
    ) -> None:
        """Objects as (id, size in bytes, [(chunk, offset)])."""
