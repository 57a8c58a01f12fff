"""`asyncart ls`: names, versions, files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...aio import Api, Artifact, ArtifactEntry
    from ...model import CollectionInfo


@click.command(cls=Command, short_help="List artifacts, versions, or files.")
@click.argument("what", metavar="[NAME|REF[/PREFIX]]", required=False)
@click.option("-t", "--type", "kind", metavar="TYPE", help="Only artifacts of this type.")
@click.option("--all", "is_all", is_flag=True, help="Artifacts of all projects.")
@pass_options
def ls(options: Options, what: str | None, kind: str | None, is_all: bool) -> None:
    """List artifacts; the versions of NAME; or the files of NAME:v0 (below NAME:v0/PREFIX)."""
    from .. import runner, screen, targets

    if what is None:
        _print_collections(options, kind, is_all)
        return
    if not targets.has_selector(what):

        async def versions(api: Api) -> list[Artifact]:
            return await api.artifacts(what, kind)

        _print_versions(options, runner.with_api(options, versions))
        return
    reference, prefix = targets.split(what)

    async def files(api: Api) -> list[ArtifactEntry]:
        return await (await api.artifact(reference, kind)).files(prefix)

    found = runner.with_api(options, files)
    if prefix and not found:
        screen.tell(options, f"asyncart: {reference} has no path that begins with {prefix}")
    _print_files(options, found)


def _print_collections(options: Options, kind: str | None, is_all: bool) -> None:
    from .. import describe, runner, screen
    from ..words import local_time, size

    async def work(api: Api) -> tuple[str, list[str], list[CollectionInfo]]:
        projects = await api.projects()
        wanted = projects if is_all else [api.project]
        found = [info for name in wanted for info in await api.collections(kind, name)]
        return api.project, projects, found

    project, projects, found = runner.with_api(options, work)
    if options.is_json:
        screen.print_json([describe.collection(info) for info in found])
        return
    if not found:
        others = f"; --all lists those of {', '.join(projects)}" if projects else ""
        screen.tell(options, f"asyncart: no artifacts in project {project}{others}")
        return
    rows = [
        [
            f"{info.project}/{info.name}" if is_all else info.name,
            info.type,
            str(info.versions),
            "" if info.latest is None else f"v{info.latest}",
            size(info.size),
            local_time(info.updated_at),
        ]
        for info in found
    ]
    headers = ["NAME", "TYPE", "VERSIONS", "LATEST", "SIZE", "UPDATED"]
    screen.table(headers, rows, right="VERSIONS SIZE")


def _print_versions(options: Options, found: list[Artifact]) -> None:
    from .. import describe, screen
    from ..words import local_time, size

    if options.is_json:
        screen.print_json([describe.version(artifact) for artifact in found])
        return
    rows = [
        [
            artifact.name,
            f"{artifact.file_count:,}",
            size(artifact.size),
            local_time(artifact.created_at),
            artifact.digest[:12],
            ", ".join(artifact.aliases),
        ]
        for artifact in found
    ]
    headers = ["VERSION", "FILES", "SIZE", "CREATED", "DIGEST", "ALIASES"]
    screen.table(headers, rows, right="FILES SIZE")


def _print_files(options: Options, found: list[ArtifactEntry]) -> None:
    from .. import describe, screen
    from ..words import size

    if options.is_json:
        screen.print_json([describe.entry(file) for file in found])
    elif found:
        rows = [[size(file.size), file.digest[:12], _path(file)] for file in found]
        screen.table(["SIZE", "DIGEST", "PATH"], rows, right="SIZE")


def _path(file: ArtifactEntry) -> str:
    return file.path if file.ref is None else f"{file.path} -> {file.ref}"
