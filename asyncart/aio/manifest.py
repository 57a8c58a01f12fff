"""The manifest of a logged artifact, in the user's hands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .entry import ArtifactEntry

if TYPE_CHECKING:
    from .artifact import Artifact


class ArtifactManifest:
    """All entries of a version. Looking one up reads two small blocks, whatever the version's size."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact

    async def get(self, path: str) -> ArtifactEntry | None:
        """The entry of that path, or None."""
        entry = await (await self._artifact._reader()).find(path)
        return None if entry is None else ArtifactEntry(self._artifact, entry)

    async def entries(self, prefix: str = "") -> dict[str, ArtifactEntry]:
        """Path -> entry, sorted by path, for all paths that start with the prefix."""
        return {entry.path: entry for entry in await self._artifact.files(prefix)}

    async def count(self) -> int:
        """How many entries there are."""
        return (await (await self._artifact._reader()).footer()).entry_count
