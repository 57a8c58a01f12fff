"""Look at what is stored, without a run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType

from .. import names
from ..catalog.protocol import CollectionName, Retention
from ..errors import NotFound
from ..model import CollectionInfo
from .artifact import Artifact
from .collect import GarbageReport, collect
from .run import _settings, find_artifact
from .workspace import Workspace

PAGE_VERSIONS = 1000  # asked for at once


class Api:
    """Reads and tidies the catalog. Nothing that it does is recorded as lineage.

    `entity` and `project` fill in what names leave out; `home`, `store`, `catalog`, `server` and other settings
    are as in `init`.
    """

    def __init__(
        self,
        *,
        entity: str | None = None,
        project: str | None = None,
        home: str | os.PathLike[str] | None = None,
        store: str | None = None,
        catalog: str | None = None,
        server: str | None = None,
        api_key: str | None = None,
        **settings: str | int | float,
    ) -> None:
        self._settings = _settings(
            home, store, catalog, server, api_key, entity, project, **settings
        )
        self._entered: list[Workspace] = []

    @property
    def entity(self) -> str:
        """The owner of projects that give none; empty where a server names it (the key's own)."""
        return self._settings.entity

    @property
    def project(self) -> str:
        return self._settings.project

    async def artifact(self, name: str, type: str | None = None) -> Artifact:
        """The artifact `[entity/][project/]name[:alias|:vN]`. Raises NotFound."""
        artifact = await find_artifact(self._workspace(), name, self.entity, self.project)
        if type is not None and artifact.type != type:
            raise NotFound(f"{artifact.name} is of type {artifact.type!r}, not {type!r}")
        return artifact

    async def artifact_exists(self, name: str, type: str | None = None) -> bool:
        try:
            await self.artifact(name, type)
        except NotFound:
            return False
        return True

    async def artifacts(self, name: str, type: str | None = None) -> list[Artifact]:
        """All live versions of a name, newest first. Raises NotFound if there is none."""
        workspace = self._workspace()
        catalog = await workspace.catalog()
        found: list[Artifact] = []
        page = await catalog.list_versions(self._collection(name), limit=PAGE_VERSIONS)
        while True:
            found += [Artifact._logged(version, workspace) for version in page]
            if len(page) < PAGE_VERSIONS:
                return [a for a in found if type is None or a.type == type]
            after = page[-1].number
            page = await catalog.list_versions(self._collection(name), after, PAGE_VERSIONS)

    async def collections(
        self, type: str | None = None, project: str | None = None
    ) -> list[CollectionInfo]:
        """Every name of the project (default: the Api's) with its type and versions."""
        workspace = self._workspace()
        catalog = await workspace.catalog()
        return await catalog.list_collections(workspace.entity, project or self.project, type)

    async def projects(self) -> list[str]:
        """The names of the entity's projects that have artifacts, sorted."""
        workspace = self._workspace()
        catalog = await workspace.catalog()
        return sorted({found.project for found in await catalog.list_collections(workspace.entity)})

    async def run_inputs(self, run_id: str) -> list[Artifact]:
        """What that run consumed. Raises NotFound."""
        workspace = self._workspace()
        found = await (await workspace.catalog()).run_inputs(run_id)
        return [Artifact._logged(info, workspace) for info in found]

    async def run_outputs(self, run_id: str) -> list[Artifact]:
        """What that run produced. Raises NotFound."""
        workspace = self._workspace()
        found = await (await workspace.catalog()).run_outputs(run_id)
        return [Artifact._logged(info, workspace) for info in found]

    async def delete_collection(
        self,
        name: str,
        *,
        delete_aliases: bool = False,
        expected: Iterable[Artifact] | None = None,
        dry_run: bool = False,
    ) -> list[Artifact]:
        """Delete all versions of a name; returns them, newest first. Its numbers are not used again.

        Raises NotFound, and Conflict while aliases other than `latest` exist, unless `delete_aliases`.
        With `dry_run` nothing is deleted. What that returned may be given as `expected`: then nothing else is
        deleted, and a Conflict is raised if the name has other versions by now.
        """
        workspace = self._workspace()
        catalog = await workspace.catalog()
        collection = self._collection(name)
        deleted = await catalog.delete_collection(
            collection,
            delete_aliases=delete_aliases,
            expected=_numbers(collection, expected),
            dry_run=dry_run,
        )
        return [Artifact._logged(info, workspace) for info in deleted]

    async def prune(
        self,
        name: str,
        *,
        keep_last: int | None = None,
        older_than: timedelta | None = None,
        keep_aliased: bool = True,
        expected: Iterable[Artifact] | None = None,
        dry_run: bool = False,
    ) -> list[Artifact]:
        """Delete the versions of a name that no rule keeps; returns them, newest first.

        The newest `keep_last` stay, and what was logged (again) within `older_than`; of the rules that are
        given, each must let a version go. Aliases other than `latest` protect it, unless `keep_aliased`
        is False: then they go with it. The version that `latest` points to always stays. With `dry_run`
        nothing is deleted. What that returned may be given as `expected`: then nothing else is deleted, and a
        Conflict is raised if the rules let others go by now. Raises NotFound, and Invalid without any rule.
        """
        retention = Retention(
            keep_last, None if older_than is None else older_than.total_seconds(), keep_aliased
        )
        workspace = self._workspace()
        catalog = await workspace.catalog()
        collection = self._collection(name)
        deleted = await catalog.prune_versions(
            collection, retention, expected=_numbers(collection, expected), dry_run=dry_run
        )
        return [Artifact._logged(info, workspace) for info in deleted]

    async def collect(self, *, dry_run: bool = False, compact: bool = True) -> GarbageReport:
        """Delete the versions whose time to live is over, and give back the space of what no version
        reaches; safe while others read and write.

        Objects that are mostly dead are compacted, unless `compact` is False: what still lives in them is
        copied, and the next collection deletes them. With `dry_run` only say what would be done now.
        """
        return await collect(self._workspace(), dry_run=dry_run, compact=compact)

    async def aclose(self) -> None:
        """Close the connections, unless somebody else still works with them; the next call opens them again."""
        await self._workspace().close_unused()

    async def __aenter__(self) -> Api:
        self._entered.append(self._workspace())
        self._entered[-1].acquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._entered.pop().release()

    def _collection(self, name: str) -> CollectionName:
        """What the name means, once the catalog is open."""
        ref = names.parse_ref(name)
        entity = ref.entity or self._workspace().entity
        return CollectionName(entity, ref.project or self.project, ref.name)

    def _workspace(self) -> Workspace:
        return Workspace.of(self._settings)


def _numbers(collection: CollectionName, expected: Iterable[Artifact] | None) -> list[int] | None:
    """Of those that are expected, the versions of this collection."""
    if expected is None:
        return None
    infos = [artifact._version_info("expected") for artifact in expected]
    return [
        info.number
        for info in infos
        if CollectionName(info.entity, info.project, info.collection) == collection
    ]
