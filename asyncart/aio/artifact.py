"""The artifact: a draft until it is logged, immutable after."""

from __future__ import annotations

import copy
import os
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import anyio

from .. import config, names
from ..engine.download import LinkMode
from ..engine.scan import Symlinks
from ..engine.tree import ManifestReader
from ..errors import ArtifactFinalizedError, ArtifactNotLoggedError, Invalid, NotFound
from ..model import RunInfo, VersionInfo
from . import materialise
from .drafting import Contents
from .entry import ArtifactEntry
from .manifest import ArtifactManifest
from .materialise import Verification
from .newfile import NewFile
from .progress import ProgressCallback
from .workspace import Workspace

if TYPE_CHECKING:
    from ..stores.protocol import Store

Policy = Literal["mutable", "immutable"]


class Artifact:
    """A named, versioned tree of files.

    Make one, add to it, and log it with `run.log_artifact`; `run.use_artifact` and `Api.artifact` return
    logged ones. Adding checks its arguments at once, but files are read when the artifact is logged.

    `name`: letters, digits, `_`, `.`, `-`, at most 128. `type`: "dataset", "model", "result", ... one
    per name, for ever. `metadata`: JSON; at most 100 top-level keys. Raises Invalid (a ValueError).
    """

    def __init__(
        self,
        name: str,
        type: str,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._collection = names.check_collection_name(name)
        self._type = names.check_type(type)
        self._draft_id = uuid.uuid4().hex
        self._contents = Contents()
        self._description = description
        self._metadata = names.normalise_metadata(metadata)
        self._aliases: list[str] = []
        self._tags: list[str] = []
        self._ttl_s: float | None = None
        self._info: VersionInfo | None = None
        self._workspace: Workspace | None = None
        self._manifest_reader: tuple[Store, ManifestReader] | None = None
        self._loggings = 0  # calls that are about to make it a version
        self._logging = anyio.Lock()

    @classmethod
    def _logged(cls, info: VersionInfo, workspace: Workspace) -> Artifact:
        artifact = cls(info.collection, info.type)
        artifact._become(info, workspace)
        return artifact

    def _become(self, info: VersionInfo, workspace: Workspace) -> None:
        self._info = info
        self._workspace = workspace
        self._manifest_reader = None
        self._description = info.description
        self._metadata = copy.deepcopy(info.metadata)  # to see what was changed inside, too
        self._aliases = list(info.aliases)
        self._tags = list(info.tags)
        self._ttl_s = info.ttl_s

    # what it is

    @property
    def name(self) -> str:
        """`bike-data`, and once it is logged `bike-data:v0`."""
        return self._info.name if self._info else self._collection

    @property
    def collection(self) -> str:
        """The name without the version."""
        return self._collection

    @property
    def type(self) -> str:
        return self._type

    @property
    def is_draft(self) -> bool:
        return self._info is None

    @property
    def state(self) -> str:
        """ "PENDING" for a draft, "COMMITTED" once it is logged."""
        return "PENDING" if self._info is None else "COMMITTED"

    @property
    def id(self) -> str:
        return self._version_info("id").id

    @property
    def entity(self) -> str:
        return self._version_info("entity").entity

    @property
    def project(self) -> str:
        return self._version_info("project").project

    @property
    def qualified_name(self) -> str:
        """`entity/project/name:vN`."""
        return self._version_info("qualified_name").qualified_name

    @property
    def version(self) -> str:
        """`v0`, `v1`, ..."""
        return self._version_info("version").version

    @property
    def digest(self) -> str:
        """BLAKE3-256 over all paths and their contents, in hex; the same content has the same digest."""
        return self._version_info("digest").digest.hex()

    @property
    def size(self) -> int:
        """The sum of the files' sizes in bytes."""
        return self._version_info("size").size

    @property
    def file_count(self) -> int:
        return self._version_info("file_count").entry_count

    @property
    def created_at(self) -> float:
        """Seconds since 1970 (UTC)."""
        return self._version_info("created_at").created_at

    @property
    def updated_at(self) -> float:
        return self._version_info("updated_at").updated_at

    @property
    def manifest(self) -> ArtifactManifest:
        """All entries: look one up, or list them."""
        self._version_info("manifest")
        return ArtifactManifest(self)

    @property
    def description(self) -> str | None:
        """Free text. Change it and `save()`."""
        return self._description

    @description.setter
    def description(self, text: str | None) -> None:
        self._description = text

    @property
    def metadata(self) -> dict[str, Any]:
        """JSON. Change it and `save()`."""
        return self._metadata

    @metadata.setter
    def metadata(self, value: Mapping[str, Any] | None) -> None:
        self._metadata = names.normalise_metadata(value)

    @property
    def aliases(self) -> list[str]:
        """Movable names of this version. Change the list and `save()`."""
        self._version_info("aliases")
        return self._aliases

    @aliases.setter
    def aliases(self, aliases: Iterable[str]) -> None:
        self._version_info("aliases")
        self._aliases = [names.check_alias(alias) for alias in aliases]

    @property
    def tags(self) -> list[str]:
        """Free labels of this version. Change the list and `save()`."""
        self._version_info("tags")
        return self._tags

    @tags.setter
    def tags(self, tags: Iterable[str]) -> None:
        self._version_info("tags")
        self._tags = [names.check_tag(tag) for tag in tags]

    @property
    def ttl(self) -> timedelta | None:
        """How long the version is to live, counted from when its content was logged last; None: for ever.

        Set it on a draft, or on a logged version and `save()`. When the time is over, the next collection
        deletes the version, unless an alias other than `latest` points to it.
        """
        return None if self._ttl_s is None else timedelta(seconds=self._ttl_s)

    @ttl.setter
    def ttl(self, ttl: timedelta | None) -> None:
        if ttl is not None and not (isinstance(ttl, timedelta) and ttl > timedelta(0)):
            raise Invalid(f"ttl={ttl!r}: it must be a positive timedelta, or None")
        self._ttl_s = None if ttl is None else ttl.total_seconds()

    @property
    def expires_at(self) -> float | None:
        """When a logged version's stored `ttl` is over, in seconds since the epoch; None: never."""
        return self._version_info("expires_at").expires_at

    # adding, while it is a draft

    def add_file(
        self,
        local_path: str | os.PathLike[str],
        name: str | None = None,
        *,
        policy: Policy = "mutable",
        overwrite: bool = False,
    ) -> str:
        """Add one file as `name` (default: its base name); returns the path in the artifact.

        `policy="immutable"` is your word that the file will not change: a local store may then link it
        instead of copying. Raises NotFound for a missing file, Invalid for a bad name, or a path that
        has other content already (unless `overwrite`).
        """
        self._raise_if_logged("add_file")
        return self._contents.add_file(
            os.fspath(local_path), name, is_immutable=_is_immutable(policy), overwrite=overwrite
        )

    def add_dir(
        self,
        local_path: str | os.PathLike[str],
        name: str | None = None,
        *,
        symlinks: Symlinks = "follow",
        policy: Policy = "mutable",
        overwrite: bool = False,
    ) -> None:
        """Add the files below a folder, under the prefix `name` (default: at the root).

        The folder is walked when the artifact is logged. Symbolic links are followed; a broken link, a
        loop, a socket or a device is an error then. Empty folders are not stored.
        """
        self._raise_if_logged("add_dir")
        self._contents.add_dir(
            os.fspath(local_path),
            name,
            symlinks=symlinks,
            is_immutable=_is_immutable(policy),
            overwrite=overwrite,
        )

    def new_file(
        self, name: str, mode: str = "w", encoding: str | None = None, *, overwrite: bool = False
    ) -> NewFile:
        """A file to write: `async with artifact.new_file("hello.txt") as f: await f.write("...")`.

        `mode` is "w" (text, UTF-8) or "wb". It is added when the block ends; if the body raises, nothing is.
        """
        self._raise_if_logged("new_file")
        names.check_entry_path(name)
        return NewFile(self, name, mode, encoding, overwrite)

    def add_reference(
        self,
        uri: str,
        name: str | None = None,
        *,
        checksum: bool = True,
        max_objects: int | None = None,
    ) -> None:
        """Track a URI: `file://` (files and folders), `http(s)://`, or any other, recorded as it is.

        `name` is the path (for folders: the prefix) in the artifact, by default the last part of the URI.
        It is resolved when the artifact is logged. `checksum=False` records the URI without looking at it.
        """
        self._raise_if_logged("add_reference")
        self._contents.add_reference(uri, name, checksum=checksum, max_objects=max_objects)

    def remove(self, path: str) -> None:
        """Take a path, or everything below it, out of the draft."""
        self._raise_if_logged("remove")
        self._contents.remove(path)

    # using it, once it is logged

    async def get_entry(self, path: str) -> ArtifactEntry:
        """The file or reference of that path. Raises NotFound (a LookupError)."""
        entry = await (await self._reader()).find(path)
        if entry is None:
            raise NotFound(
                f"{self.name} has no {path!r}; files(), or `asyncart ls {self.name}`, lists what it has"
            )
        return ArtifactEntry(self, entry)

    async def get_path(self, path: str) -> ArtifactEntry:
        """The same as `get_entry`: the name that W&B gave it first."""
        return await self.get_entry(path)

    async def files(self, prefix: str = "") -> list[ArtifactEntry]:
        """All entries whose path starts with the prefix, sorted by path."""
        return [
            ArtifactEntry(self, entry)
            async for entries in (await self._reader()).steps(prefix)
            for entry in entries
        ]

    async def download(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        path_prefix: str | None = None,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        allow_file_references: bool = False,
        link: LinkMode = "reflink",
        progress: ProgressCallback | None = None,
    ) -> str:
        """Bring the files into `root` (default: `artifacts/NAME:vN`); returns that folder.

        Files that are there already with the right content are left alone; other files in the folder
        are not touched. Every byte is verified before it gets its name. Running it again resumes it.
        `path_prefix`, and the globs `include` and `exclude`, choose among the paths. A `file://`
        reference is opened only if it comes from your own catalog (the one below ASYNCART_HOME), or with
        `allow_file_references`.

        Large files share the blocks of a local store where the file system can (reflink). With
        `link="hardlink"` they are the store's own files, read-only: never change them in place.

        Raises Corrupt naming the file if stored bytes are wrong, Unavailable if the disk is full.
        """
        folder = self._folder(root)
        chosen = materialise.selection(path_prefix, include, exclude)
        await materialise.download(self, folder, chosen, progress, allow_file_references, link)
        return folder

    async def checkout(self, root: str | os.PathLike[str] | None = None) -> str:
        """Make `root` exactly this version: like `download`, and what does not belong to it is deleted."""
        folder = self._folder(root)
        await materialise.checkout(self, folder)
        return folder

    async def verify(self, root: str | os.PathLike[str] | None = None) -> Verification:
        """Compare the folder with this version, reading every file; without a folder, verify the
        stored objects. Returns a report: `is_ok`, `missing`, `different`, `extra`, `damaged`."""
        if root is None:
            return await materialise.verify_stored(self)
        return await materialise.verify_folder(self, os.fspath(root))

    async def save(self) -> None:
        """Store changed `description`, `metadata`, `aliases`, `tags` and `ttl`."""
        info = self._version_info("save")
        changes: dict[str, Any] = {}
        if self._description != info.description:
            changes["description"] = self._description
        metadata = names.normalise_metadata(self._metadata)
        if metadata != info.metadata:
            changes["metadata"] = metadata
        aliases, seen = {names.check_alias(alias) for alias in self._aliases}, {*info.aliases}
        if aliases != seen:  # what others have added or removed since then stays so
            changes |= {
                "add_aliases": sorted(aliases - seen),
                "remove_aliases": sorted(seen - aliases),
            }
        tags = tuple(names.check_tag(tag) for tag in self._tags)
        if set(tags) != set(info.tags):
            changes["tags"] = tags
        if self._ttl_s != info.ttl_s:
            changes["ttl_s"] = self._ttl_s
        workspace = self._workspace_or_raise()
        if changes:
            catalog = await workspace.catalog()
            self._become(await catalog.update_version(info.id, **changes), workspace)

    async def delete(self, *, delete_aliases: bool = False) -> None:
        """Delete this version. Raises Conflict while aliases point to it, unless `delete_aliases`."""
        info = self._version_info("delete")
        catalog = await self._workspace_or_raise().catalog()
        await catalog.delete_version(info.id, delete_aliases=delete_aliases)

    async def wait(self) -> Artifact:
        """For code written for W&B: here `log_artifact` has waited already."""
        self._version_info("wait")
        return self

    async def used_by(self) -> list[RunInfo]:
        """The runs that consumed this version."""
        info = self._version_info("used_by")
        return await (await self._workspace_or_raise().catalog()).used_by(info.id)

    async def logged_by(self) -> list[RunInfo]:
        """The runs that logged this content, the first one first."""
        info = self._version_info("logged_by")
        return await (await self._workspace_or_raise().catalog()).logged_by(info.id)

    def new_draft(self) -> Artifact:
        """A draft of the next version that begins with this one's content."""
        info = self._version_info("new_draft")
        draft = Artifact(self._collection, self._type, self._description, self._metadata)
        draft._contents = Contents(info)
        draft._workspace = self._workspace
        return draft

    # inside

    def _settings(self) -> config.Settings:
        return self._workspace.settings if self._workspace else config.load()

    def _version_info(self, attribute: str) -> VersionInfo:
        if self._info is None:
            raise ArtifactNotLoggedError(
                f"{self._collection} is a draft and has no {attribute} yet; log it first: run.log_artifact(artifact)"
            )
        return self._info

    def _workspace_or_raise(self) -> Workspace:
        self._version_info("content")
        assert self._workspace is not None
        return self._workspace.here()

    @asynccontextmanager
    async def _being_logged(self) -> AsyncIterator[None]:
        """Nothing can be added meanwhile, since it might be seen or not; and nobody else logs it."""
        self._loggings += 1
        try:
            async with self._logging:
                yield
        finally:
            self._loggings -= 1

    def _raise_if_logged(self, operation: str) -> None:
        if self._loggings:
            raise ArtifactFinalizedError(
                f"{self.name} is being logged and cannot change: {operation} what belongs to it before log_artifact"
            )
        if self._info is not None:
            raise ArtifactFinalizedError(
                f"{self.name} is logged and cannot change: {operation} works on a draft; make one with new_draft()"
            )

    def _folder(self, root: str | os.PathLike[str] | None) -> str:
        if root is not None:
            return os.fspath(root)
        name = self.name.replace(":", "-") if os.name == "nt" else self.name
        return os.path.join(self._settings().artifacts_dir, name)

    async def _reader(self) -> ManifestReader:
        info = self._version_info("manifest")
        workspace = self._workspace_or_raise()
        store = await workspace.store()
        if self._manifest_reader is None or self._manifest_reader[0] is not store:
            reader = workspace.manifest_reader(store, info)
            self._manifest_reader = store, reader
        return self._manifest_reader[1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Artifact):
            return NotImplemented
        if self._info is None or other._info is None:
            return self is other
        return self._info.id == other._info.id

    def __hash__(self) -> int:
        # A draft that is logged must stay findable in a set, so the hash does not depend on the version.
        return hash((self._collection, self._type))

    def __repr__(self) -> str:
        return f"<Artifact {self.name} ({self._type}{', draft' if self._info is None else ''})>"


def _is_immutable(policy: str) -> bool:
    if policy not in ("mutable", "immutable"):
        raise Invalid(f"policy={policy!r}: it must be 'mutable' or 'immutable'")
    return policy == "immutable"
