"""`asyncart rm`: delete versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...aio import Api


@click.command(cls=Command, short_help="Delete versions.")
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option(
    "--delete-aliases", is_flag=True, help="Also if aliases other than latest point to it."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_options
def rm(options: Options, refs: tuple[str, ...], delete_aliases: bool, yes: bool) -> None:
    """Delete versions. The selector must be said; numbers are not used again.

    `asyncart gc` gives back the space of what no other version needs.
    """
    from .. import runner, screen, targets

    wanted = [targets.one_version(ref) for ref in refs]

    async def resolve(api: Api) -> list[str]:
        return list(dict.fromkeys([(await api.artifact(ref)).qualified_name for ref in wanted]))

    async def delete(api: Api) -> None:
        for name in names:
            await (await api.artifact(name)).delete(delete_aliases=delete_aliases)

    names = runner.with_api(options, resolve)
    screen.confirm(f"Delete {', '.join(names)}?", is_sure=yes)
    runner.with_api(options, delete)
    if options.is_json:
        screen.print_json({"deleted": names})
    else:
        for name in names:
            screen.say(f"{name}  deleted")
