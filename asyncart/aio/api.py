"""Look at what is stored, without a run."""

from __future__ import annotations

import os
from types import TracebackType

from .. import names
from ..catalog.protocol import CollectionName
from ..errors import NotFound
from ..model import CollectionInfo
from .artifact import Artifact
from .collect import GarbageReport, collect
from .run import _settings, find_artifact
from .workspace import Workspace


class Api:
    """Reads the catalog. Nothing that it does is recorded as lineage.

    `entity` and `project` fill in what names leave out; `home`, `store`, `catalog` and other settings are as in
    `init`.
    """

    def __init__(
        self,
        *,
        entity: str | None = None,
        project: str | None = None,
        home: str | os.PathLike[str] | None = None,
        store: str | None = None,
        catalog: str | None = None,
        **settings: str | int | float,
    ) -> None:
        self._settings = _settings(home, store, catalog, entity, project, **settings)

    @property
    def entity(self) -> str:
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
        ref = names.parse_ref(name)
        collection = CollectionName(
            ref.entity or self.entity, ref.project or self.project, ref.name
        )
        workspace = self._workspace()
        catalog = await workspace.catalog()
        found = [Artifact._logged(v, workspace) for v in await catalog.list_versions(collection)]
        return [a for a in found if type is None or a.type == type]

    async def collections(
        self, type: str | None = None, project: str | None = None
    ) -> list[CollectionInfo]:
        """Every name of the project (default: the Api's) with its type and versions."""
        catalog = await self._workspace().catalog()
        return await catalog.list_collections(self.entity, project or self.project, type)

    async def projects(self) -> list[str]:
        """The names of the entity's projects that have artifacts, sorted."""
        catalog = await self._workspace().catalog()
        return sorted({found.project for found in await catalog.list_collections(self.entity)})

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

    async def collect(self, *, dry_run: bool = False) -> GarbageReport:
        """Give back the space of what no version reaches; safe while others write.

        With `dry_run` only say what would be deleted now.
        """
        return await collect(self._workspace(), dry_run=dry_run)

    async def aclose(self) -> None:
        """Close the connections; the next call opens them again."""
        await self._workspace().aclose()

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _workspace(self) -> Workspace:
        return Workspace.of(self._settings)
