"""Runs: the steps of a pipeline, which produce and consume artifacts."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import secrets
import string
import sys
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

import anyio
import msgspec

from .. import config, names
from .._bridge import at_exit
from ..catalog.protocol import CollectionName
from ..engine.tasks import task_group
from ..errors import Invalid
from ..model import RunInfo, RunState, VersionInfo
from .artifact import Artifact
from .background import Background, PendingArtifact
from .commit import Header, commit
from .progress import ProgressCallback
from .workspace import Workspace

ALPHABET = string.ascii_lowercase + string.digits
DEFAULT_TYPE = "unspecified"
END_S = 5.0  # to say that a run has failed, when its end was cancelled

logger = logging.getLogger("asyncart.run")

_current: list[Run] = []
_current_lock = threading.Lock()


class Run:
    """A step of a pipeline. `init` makes one; use it as a context manager, or call `finish`.

    Several runs may be open in one process, and one run may be used by many tasks at once. A forked
    child may go on using its parent's run; only the process that began it finishes it.
    """

    def __init__(self, info: RunInfo, workspace: Workspace) -> None:
        self._info = info
        self._begun_in = workspace
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._background = Background()
        self._is_finished = False

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def entity(self) -> str:
        return self._info.entity

    @property
    def project(self) -> str:
        return self._info.project

    @property
    def job_type(self) -> str | None:
        return self._info.job_type

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that was given to `init`."""
        return dict(self._info.config)

    @property
    def is_finished(self) -> bool:
        return self._is_finished

    async def log_artifact(
        self,
        artifact_or_path: Artifact | str | os.PathLike[str],
        name: str | None = None,
        type: str | None = None,
        aliases: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Artifact:
        """Store the artifact as an output of this run; it is durable on return.

        Content that any live version of the name has already makes no new version: that one is returned,
        and `aliases` and `latest` move to it. A path or folder is logged as an artifact of the name
        `name` (default: `run-ID-BASENAME`) and the type `type` (default: "unspecified").

        Raises Invalid for bad names or another type than the name had before, NotFound for files that
        disappeared, Conflict for files that change while they are read, Unavailable for a full disk.
        After an error nothing is visible, and logging again sends only what is not stored yet.
        """
        self._raise_if_finished()
        artifact = _as_artifact(self, artifact_or_path, name, type)
        await self._log(artifact, aliases, tags, progress, is_output=True)
        return artifact

    async def log_artifact_in_background(
        self,
        artifact_or_path: Artifact | str | os.PathLike[str],
        name: str | None = None,
        type: str | None = None,
        aliases: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> PendingArtifact:
        """`log_artifact` without waiting for it: arguments are checked now, the rest goes on by itself.

        `await pending.wait()` gives the artifact or raises the error. What nobody waits for, `finish`
        waits for, and raises its error; a run that failed cancels it. Leave the files alone until then:
        they are read meanwhile.
        """
        self._raise_if_finished()
        artifact = _as_artifact(self, artifact_or_path, name, type)
        _raise_if_logged(artifact)
        aliases, tags = _checked_aliases(aliases), _checked_tags(tags)
        log = partial(self._log, artifact, aliases, tags, progress, is_output=True)
        return self._background.start(artifact, log)

    async def use_artifact(
        self,
        artifact_or_name: Artifact | str,
        type: str | None = None,
        aliases: Iterable[str] | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Artifact:
        """Mark an artifact as an input of this run and return it.

        A name is `[entity/][project/]name[:alias|:vN]`; without a selector it means `:latest`. A draft is
        logged first, with `aliases`, unless its content is there already. Raises NotFound, or Invalid if it is not of `type`.
        """
        self._raise_if_finished()
        if isinstance(artifact_or_name, Artifact):
            artifact = artifact_or_name
        else:
            artifact = await find_artifact(
                self._workspace, artifact_or_name, self.entity, self.project
            )
        if type is not None and artifact.type != type:
            raise Invalid(f"{artifact.name} is of type {artifact.type!r}, not {type!r}")
        if artifact.is_draft:
            await self._log(artifact, aliases, None, progress, is_output=False)
        catalog = await self._workspace.catalog()
        await catalog.record_use(self.id, artifact.id)
        return artifact

    async def logged_artifacts(self) -> list[Artifact]:
        """What this run produced, in order."""
        return self._artifacts(await (await self._workspace.catalog()).run_outputs(self.id))

    async def used_artifacts(self) -> list[Artifact]:
        """What this run consumed, in order."""
        return self._artifacts(await (await self._workspace.catalog()).run_inputs(self.id))

    async def finish(self, exit_code: int = 0) -> None:
        """End the run: `exit_code` 0 is success. Again is fine.

        Waits for what is logged in the background (or cancels it, if the run failed), and raises the
        error of what nobody waited for; the run has failed then.
        """
        error = await self._finish(exit_code)
        if error is not None:
            raise error

    async def _finish(self, exit_code: int) -> Exception | None:
        """Returns what failed in the background without anybody's notice."""
        if self._is_finished:
            return None
        self._is_finished = True
        with _current_lock:
            if self in _current:
                _current.remove(self)
        if self._is_orphan:
            self._background.abandon()
        try:
            error = await self._background.finish(cancel=exit_code != 0)
        except BaseException:
            with anyio.move_on_after(END_S, shield=True):
                await self._end(RunState.FAILED)
            raise
        await self._end(RunState.FAILED if exit_code or error else RunState.FINISHED)
        return error

    async def _end(self, state: RunState) -> None:
        if self._pid != os.getpid():
            return
        workspace = self._workspace
        if workspace is not self._begun_in:
            workspace.acquire()
        try:
            await (await workspace.catalog()).finish_run(self.id, state)
        finally:
            await workspace.release()

    async def __aenter__(self) -> Run:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.finish()
        elif (unnoticed := await self._finish(1)) is not None:
            # It must not take the place of the error that ended the run.
            logger.error("run %s: %s", self.id, unnoticed, exc_info=unnoticed)

    async def _log(
        self,
        artifact: Artifact,
        aliases: Iterable[str] | None,
        tags: Iterable[str] | None,
        progress: ProgressCallback | None,
        *,
        is_output: bool,
    ) -> None:
        aliases, tags = _checked_aliases(aliases), _checked_tags(tags)
        workspace = self._workspace
        async with artifact._being_logged():
            if not artifact.is_draft and not is_output:
                return  # somebody else has just logged it, and to use it is all that is wanted
            _raise_if_logged(artifact)
            header = Header(
                draft_id=artifact._draft_id,
                collection=CollectionName(self.entity, self.project, artifact.collection),
                type=artifact.type,
                description=artifact.description,
                metadata=names.normalise_metadata(artifact.metadata),
                aliases=aliases,
                tags=tags,
                run_id=self.id if is_output else None,
                ttl_s=artifact._ttl_s,
            )
            committed = await commit(workspace, artifact._contents, header, progress)
            artifact._become(committed.version, workspace)
        await workspace.threads.run(artifact._contents.discard_files)

    @property
    def _workspace(self) -> Workspace:
        return self._begun_in.here()

    def _is_of_this_loop(self) -> bool:
        # A forked child that went on with its parent's run has its own background to wait for.
        return self._workspace is self._begun_in or self._pid != os.getpid()

    @property
    def _is_orphan(self) -> bool:
        """Begun by this process on a loop that is closed: nobody can finish it any more but `finish_all`."""
        return self._pid == os.getpid() and self._loop.is_closed()

    def _raise_if_finished(self) -> None:
        if self._is_finished:
            raise Invalid(f"run {self.id} is finished; init() begins another one")

    def _artifacts(self, infos: Iterable[VersionInfo]) -> list[Artifact]:
        return [Artifact._logged(info, self._workspace) for info in infos]

    def __repr__(self) -> str:
        return f"<Run {self.entity}/{self.project}/{self.id}{' (finished)' if self._is_finished else ''}>"


class RunStart:
    """What `init` returns: `await` it for a run, or enter it with `async with`."""

    def __init__(self, settings: config.Settings, info: RunInfo) -> None:
        self._settings = settings
        self._info = info
        self._run: Run | None = None

    def __await__(self) -> Generator[Any, None, Run]:
        return self._begin().__await__()

    async def __aenter__(self) -> Run:
        self._run = await self._begin()
        return self._run

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._run is not None
        await self._run.__aexit__(kind, error, traceback)

    async def _begin(self) -> Run:
        workspace, info = Workspace.of(self._settings), self._info
        workspace.acquire()
        try:
            await workspace.store()
            catalog = await workspace.catalog()
            if not info.entity:
                info = msgspec.structs.replace(info, entity=workspace.entity)
            await catalog.create_run(info)
        except BaseException:
            await workspace.release()
            raise
        run = Run(info, workspace)
        _finish_orphans_at_exit()
        with _current_lock:
            _current.append(run)
        return run


def init(
    project: str | None = None,
    *,
    entity: str | None = None,
    job_type: str | None = None,
    name: str | None = None,
    id: str | None = None,
    config: Mapping[str, Any] | None = None,
    home: str | os.PathLike[str] | None = None,
    store: str | None = None,
    catalog: str | None = None,
    server: str | None = None,
    api_key: str | None = None,
    **settings: str | int | float,
) -> RunStart:
    """Begin a run: `run = await init(project="bikes")`, or `async with init(project="bikes") as run:`.

    `store` and `catalog` are URLs or paths of the objects and of the catalog; by default both are below
    `home` (ASYNCART_HOME). Instead of both, `server` is the URL of an asyncart server, and `api_key` the
    key for it (default: what `asyncart login` stored). Any other setting can be given by its name:
    `workers=2`, `limit_rate_bytes="10M"`, ... Raises Invalid for bad names or settings.
    """
    resolved = _settings(home, store, catalog, server, api_key, entity, project, **settings)
    run_id = id if id is not None else new_run_id()
    info = RunInfo(
        id=names.check_collection_name(run_id),
        # empty: what the server calls our own, which is known once it was asked
        entity=names.check_entity(resolved.entity) if resolved.entity else "",
        project=names.check_project(resolved.project),
        name=name or f"run-{run_id}",
        job_type=job_type,
        state=RunState.RUNNING,
        created_at=time.time(),
        config=names.normalise_metadata(config),
    )
    return RunStart(resolved, info)


async def log_artifact(
    artifact_or_path: Artifact | str | os.PathLike[str],
    name: str | None = None,
    type: str | None = None,
    aliases: Iterable[str] | None = None,
    tags: Iterable[str] | None = None,
) -> Artifact:
    """`Run.log_artifact` of the run that was begun last; without one, `init()` begins one."""
    run = await _current_run()
    return await run.log_artifact(artifact_or_path, name, type, aliases, tags)


async def use_artifact(
    artifact_or_name: Artifact | str, type: str | None = None, aliases: Iterable[str] | None = None
) -> Artifact:
    """`Run.use_artifact` of the run that was begun last; without one, `init()` begins one."""
    run = await _current_run()
    return await run.use_artifact(artifact_or_name, type, aliases)


async def finish(exit_code: int = 0) -> None:
    """Finish the run that was begun last; nothing if there is none."""
    run = current_run()
    if run is not None:
        await run.finish(exit_code)


async def finish_all() -> None:
    """Finish the runs of this event loop, and of loops that are closed, that nobody finished: the last
    act of a program, in both colours.

    They failed if an uncaught error ended the program.
    """
    with _current_lock:
        left = [run for run in _current if run._is_of_this_loop() or run._is_orphan]
    async with task_group() as tasks:
        for run in left:
            tasks.start_soon(run.finish, 1 if hasattr(sys, "last_type") else 0)


def _has_orphans() -> bool:
    with _current_lock:
        return any(run._is_orphan for run in _current)


@functools.cache
def _finish_orphans_at_exit() -> None:
    at_exit(finish_all, in_children=True, is_wanted=_has_orphans)


def current_run() -> Run | None:
    """The run that was begun last and is not finished."""
    with _current_lock:
        return _current[-1] if _current else None


async def _current_run() -> Run:
    return current_run() or await init()


async def find_artifact(workspace: Workspace, text: str, entity: str, project: str) -> Artifact:
    """The artifact of that name; `entity` and `project` fill in what the name leaves out."""
    ref = names.parse_ref(text)
    catalog = await workspace.catalog()
    entity = ref.entity or entity or workspace.entity
    collection = CollectionName(entity, ref.project or project, ref.name)
    return Artifact._logged(await catalog.resolve(collection, ref.selector), workspace)


def new_run_id() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(8))


def _settings(
    home: str | os.PathLike[str] | None,
    store: str | None,
    catalog: str | None,
    server: str | None,
    api_key: str | None,
    entity: str | None = None,
    project: str | None = None,
    **others: str | int | float,
) -> config.Settings:
    if "objects" in others:
        raise Invalid(
            f"the setting `objects` is called `store` as an argument: store={others['objects']!r}"
        )
    return config.load(
        home=None if home is None else os.fspath(home),
        objects=store,
        catalog=catalog,
        server=server,
        api_key=api_key,
        entity=entity,
        project=project,
        **others,
    )


def _as_artifact(
    run: Run, given: Artifact | str | os.PathLike[str], name: str | None, type: str | None
) -> Artifact:
    if isinstance(given, Artifact):
        if name is not None and name != given.collection:
            raise Invalid(
                f"{given.collection}: its name cannot be changed to {name!r} by log_artifact"
            )
        return given
    path = os.fspath(given)
    base = os.path.basename(os.path.abspath(path))
    artifact = Artifact(name or f"run-{run.id}-{base}", type or DEFAULT_TYPE)
    if os.path.isdir(path):
        artifact.add_dir(path)
    else:
        artifact.add_file(path)
    return artifact


def _raise_if_logged(artifact: Artifact) -> None:
    if not artifact.is_draft:
        raise Invalid(
            f"{artifact.name} is logged already; make a draft with new_draft(), or set its aliases and save()"
        )


def _checked_aliases(aliases: Iterable[str] | None) -> tuple[str, ...]:
    wanted = {names.check_alias(alias): None for alias in _listed(aliases, "aliases")}
    return tuple(alias for alias in wanted if alias != names.LATEST)


def _checked_tags(tags: Iterable[str] | None) -> tuple[str, ...]:
    return tuple({names.check_tag(tag): None for tag in _listed(tags, "tags")})


def _listed(values: Iterable[str] | None, what: str) -> list[str]:
    if isinstance(values, str):
        raise Invalid(f"{what}={values!r}: give a list, {what}=[{values!r}]")
    return list(values or ())
