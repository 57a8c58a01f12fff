"""`asyncart get`: bring a version's files into a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...aio import Api, Artifact
    from ...model import Progress


@click.command(cls=Command, short_help="Bring the files of a version into a folder.")
@click.argument("ref")
@click.argument("dest", required=False)
@click.option("--prefix", metavar="PATH", help="Only paths that begin with this.")
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Only paths that match ('*' matches '/', too)."
)
@click.option("--exclude", multiple=True, metavar="GLOB", help="No paths that match.")
@click.option(
    "--allow-file-references", is_flag=True, help="Open file:// references that it contains."
)
@pass_options
def get(
    options: Options,
    ref: str,
    dest: str | None,
    prefix: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    allow_file_references: bool,
) -> None:
    """Bring the files of REF into DEST (default: artifacts/NAME:vN) and print that folder.

    Every byte is verified. What is there already is left alone, and so are other files; running it again
    continues where it was interrupted.
    """
    from .. import progress, runner, screen
    from ..words import count, size

    last: list[Progress] = []

    def note(event: Progress) -> None:
        last[:] = [event]
        if show is not None:
            show(event)

    async def work(api: Api) -> tuple[Artifact, str]:
        artifact = await api.artifact(ref)
        folder = await artifact.download(
            dest,
            path_prefix=prefix,
            include=include or None,
            exclude=exclude or None,
            allow_file_references=allow_file_references,
            progress=note,
        )
        return artifact, folder

    with progress.shown(options) as show:
        artifact, folder = runner.with_api(options, work)
    done = last[-1]
    if not done.files and artifact.file_count:
        screen.tell(options, f"asyncart: {artifact.name} has nothing that you asked for")
    if options.is_json:
        screen.print_json(
            {
                "name": artifact.name,
                "qualified_name": artifact.qualified_name,
                "folder": folder,
                "files": done.files,
                "bytes": done.bytes,
                "bytes_present": done.bytes_deduplicated,
            }
        )
        return
    present = f" ({size(done.bytes_deduplicated)} there already)" if done.bytes_deduplicated else ""
    screen.tell(
        options, f"{artifact.name}  {count(done.files, 'file')}  {size(done.bytes)}{present}"
    )
    screen.say(folder)
