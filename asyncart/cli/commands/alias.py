"""`asyncart alias`: point names at a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ...errors import NotFound
from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...aio import Api, Artifact


@click.command(cls=Command, short_help="Point aliases at a version.")
@click.argument("ref")
@click.argument("aliases", nargs=-1, metavar="[ALIAS...]")
@click.option("--remove", is_flag=True, help="Take the aliases away from REF instead.")
@pass_options
def alias(options: Options, ref: str, aliases: tuple[str, ...], remove: bool) -> None:
    """Point each ALIAS at REF, wherever it pointed before; without ALIAS, list those of REF."""
    from .. import runner, screen

    async def work(api: Api) -> Artifact:
        artifact = await api.artifact(ref)
        if not aliases:
            return artifact
        if remove:
            for absent in sorted(set(aliases) - set(artifact.aliases)):
                raise NotFound(f"{artifact.name} has no alias {absent!r}")
            artifact.aliases = [old for old in artifact.aliases if old not in aliases]
        else:
            artifact.aliases = [*artifact.aliases, *aliases]
        await artifact.save()
        return artifact

    artifact = runner.with_api(options, work)
    if options.is_json:
        screen.print_json({"name": artifact.name, "aliases": list(artifact.aliases)})
    else:
        screen.say(f"{artifact.name}  {', '.join(artifact.aliases)}".rstrip())
