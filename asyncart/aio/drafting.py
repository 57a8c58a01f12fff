"""What a draft is made of, before it is logged: sources, references, files of its own.

Arguments are checked when they are given (missing path, bad name, the same path with other content), and
nothing is copied then: content is read when the artifact is logged. Folders are walked then, too, so that
two folders that overlap, and large files of equal size, are compared only at that time.
"""

from __future__ import annotations

import os
import shutil
import weakref

import msgspec

from .. import config, names
from ..engine.scan import DirSource, FileSource, Removal, Source, Symlinks, same_content
from ..errors import Invalid, NotFound
from ..model import VersionInfo
from . import draftfolder

# A larger file that was added twice is only compared by its size at once, and read when the artifact is
# logged: `add_file` is called on an event loop, too (1 MiB from memory: 0.4 ms for each of the two).
COMPARED_BYTES = 1 << 20


class ReferenceSource(msgspec.Struct, frozen=True):
    uri: str
    name: str | None
    checksum: bool
    max_objects: int | None


class Contents:
    """The ordered list of what was added to one draft."""

    def __init__(self, base: VersionInfo | None = None) -> None:
        self.base = base
        self.sources: list[Source] = []
        self.references: list[ReferenceSource | Removal] = []
        # What is where in `sources`: asked for every file that is added.
        self._files: dict[str, tuple[int, FileSource]] = {}
        self._folders: list[tuple[int, DirSource]] = []
        self._removed: dict[str, int] = {}
        self._folder: str | None = None
        self._serial = 0

    def add_file(self, local: str, name: str | None, *, is_immutable: bool, overwrite: bool) -> str:
        if not os.path.isfile(local):
            if os.path.isdir(local):
                raise Invalid(f"{local} is a folder: use add_dir")
            if os.path.exists(local):
                raise Invalid(f"{local} is not a regular file: it cannot be stored")
            if os.path.islink(local):
                raise NotFound(f"{local} is a broken symbolic link (to {os.readlink(local)})")
            raise NotFound(
                f"{local} does not exist; check the path (relative ones start at {os.getcwd()})"
            )
        path = names.check_entry_path(name if name is not None else os.path.basename(local))
        self._check_free(path, local, overwrite)
        source = FileSource(path, os.path.abspath(local), overwrite, is_immutable)
        self._files[path] = len(self.sources), source
        self.sources.append(source)
        return path

    def add_dir(
        self,
        local: str,
        name: str | None,
        *,
        symlinks: Symlinks,
        is_immutable: bool,
        overwrite: bool,
    ) -> None:
        if not os.path.isdir(local):
            if os.path.exists(local):
                raise Invalid(f"{local} is not a folder: use add_file")
            raise NotFound(
                f"{local} does not exist; check the path (relative ones start at {os.getcwd()})"
            )
        if symlinks not in ("follow", "error", "skip"):
            raise Invalid(f"symlinks={symlinks!r}: it must be 'follow', 'error' or 'skip'")
        prefix = self._prefix(name)
        root = os.path.abspath(local)
        if not overwrite:
            for path in self._files:
                if path.startswith(prefix):
                    other = os.path.join(root, *path[len(prefix) :].split("/"))
                    if os.path.isfile(other):
                        self._check_free(path, other, overwrite=False)
        source = DirSource(prefix, root, symlinks, overwrite, is_immutable)
        self._folders.append((len(self.sources), source))
        self.sources.append(source)

    def _prefix(self, name: str | None) -> str:
        if name is None or name in ("", ".", "./"):
            return ""
        return names.check_entry_path(name.rstrip("/")) + "/"

    def add_reference(
        self, uri: str, name: str | None, *, checksum: bool, max_objects: int | None
    ) -> None:
        from ..references import check_uri

        check_uri(uri)
        if name is not None:
            names.check_entry_path(name)
        if max_objects is not None and max_objects < 1:
            raise Invalid(f"max_objects={max_objects}: it must be at least 1")
        self.references.append(ReferenceSource(uri, name, checksum, max_objects))

    def remove(self, path: str) -> None:
        path = names.check_entry_path(path.rstrip("/"))
        self._removed[path] = len(self.sources)
        self.sources.append(Removal(path))
        self.references.append(Removal(path))

    def _check_free(self, path: str, local: str, overwrite: bool) -> None:
        if overwrite:
            return
        other = self._local_of(path)
        if other is not None and not same_content(other, local, COMPARED_BYTES):
            raise Invalid(
                f"{path} was added already with other content, from {other}; choose another name= or pass overwrite=True"
            )

    def _local_of(self, path: str) -> str | None:
        """The local file that the draft has for this path now, if it has one."""
        removed = max(self._removed.get(head, -1) for head in (path, *names.parents(path)))
        added = self._files.get(path)
        since = max(removed, -1 if added is None else added[0])
        for index, source in reversed(self._folders):
            if index < since:
                break
            if path.startswith(source.prefix):
                local = os.path.join(source.local, *path[len(source.prefix) :].split("/"))
                if os.path.isfile(local):
                    return local
        return None if added is None or added[0] < removed else added[1].local

    # files that the draft writes itself

    def new_file_path(self, settings: config.Settings) -> str:
        """Where the bytes of a new file go until the draft is logged."""
        if self._folder is None:
            self._folder = draftfolder.new_folder(settings)
            weakref.finalize(self, _remove_own, self._folder, os.getpid())
        self._serial += 1
        return os.path.join(self._folder, str(self._serial))

    def discard_files(self) -> None:
        """The draft is logged: its own files are stored."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _remove_own(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        shutil.rmtree(folder, ignore_errors=True)
