"""One path of a logged artifact, in the user's hands."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from ..engine.fetch import Damaged, read_range, relocated
from ..errors import Invalid
from ..model import Entry

if TYPE_CHECKING:
    from .artifact import Artifact


class ArtifactEntry(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A file or reference of a logged artifact: what `artifact.get_entry(path)` returns."""

    # A struct that the garbage collector does not track, and is in no cycle: `files()` makes one for each of
    # 100,000 files, for which the collector would walk through the whole heap several times (0.20 s and a
    # lag of 40-54 ms for the caller's event loop; like this 0.10 s and 5 ms).
    _artifact: Artifact
    _entry: Entry

    @property
    def path(self) -> str:
        """The path inside the artifact."""
        return self._entry.path

    @property
    def name(self) -> str:
        """The same as `path`: the name that W&B gives it."""
        return self._entry.path

    @property
    def size(self) -> int:
        """Bytes; 0 for a reference of unknown size."""
        return self._entry.size

    @property
    def digest(self) -> str:
        """BLAKE3-256 of the content, in hex: what `b3sum` prints."""
        return self._entry.digest.hex()

    @property
    def is_executable(self) -> bool:
        return self._entry.executable

    @property
    def is_reference(self) -> bool:
        return self._entry.reference is not None

    @property
    def ref(self) -> str | None:
        """The URI of a reference, None for a file."""
        return self._entry.reference.uri if self._entry.reference else None

    def ref_target(self) -> str:
        """The URI that a reference points to. Raises Invalid (a ValueError) for a file."""
        if self._entry.reference is None:
            raise Invalid(f"{self.path} is a file of the artifact, not a reference; use download()")
        return self._entry.reference.uri

    async def download(
        self, root: str | os.PathLike[str] | None = None, *, allow_file_references: bool = False
    ) -> str:
        """Bring this one file into the folder (default: the artifact's); returns its local path.

        Raises Corrupt if the bytes are not those that were logged, NotFound if they are gone.
        """
        from .materialise import download_entries

        folder = self._artifact._folder(root)
        await download_entries(self._artifact, folder, [self._entry], allow_file_references)
        return os.path.join(folder, *self.path.split("/"))

    async def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes (default: all that follow) from `offset`, verified before they are returned."""
        if self._entry.reference is not None:
            raise Invalid(
                f"{self.path} is a reference to {self.ref}: download() it, or read it there"
            )
        workspace = self._artifact._workspace_or_raise()
        store, entry = await workspace.store(), self._entry
        while True:
            try:
                return await read_range(store, workspace.threads, entry, offset, length)
            except Damaged as error:
                content = await workspace.relocate(self._artifact.entity, error.object_id, entry)
                if content is None:
                    raise
                entry = relocated(entry, content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArtifactEntry) and other._entry == self._entry

    def __hash__(self) -> int:
        return hash((self._entry.path, self._entry.digest))

    def __repr__(self) -> str:
        return f"<ArtifactEntry {self.path} {self.size} bytes {self.digest[:12]}>"
