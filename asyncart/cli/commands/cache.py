"""`asyncart cache`: what is kept on this machine for speed alone."""

from __future__ import annotations

import click

from ..options import Command, Group, Options, pass_options


@click.group(cls=Group, short_help="List or clear what is kept for speed alone.")
def cache() -> None:
    """What asyncart keeps for speed alone: losing it costs time, never data."""


@cache.command("ls", cls=Command)
@pass_options
def ls(options: Options) -> None:
    """List it with its size."""
    import msgspec

    from ... import config
    from ...aio.leftovers import leftovers
    from .. import screen
    from ..words import size

    found = leftovers(config.load(home=options.home))
    if options.is_json:
        screen.print_json(msgspec.to_builtins(found))
        return
    rows = [[kind.name, f"{kind.files:,}", size(kind.bytes), kind.path] for kind in found]
    screen.table(["WHAT", "FILES", "SIZE", "PATH"], rows, right="FILES SIZE")


@cache.command("clear", cls=Command)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_options
def clear(options: Options, yes: bool) -> None:
    """Remove it. The next `put` of unchanged files has to read them again."""
    from ... import config
    from ...aio import leftovers
    from .. import screen
    from ..words import size

    settings = config.load(home=options.home)
    before = sum(kind.bytes for kind in leftovers.leftovers(settings))
    screen.confirm(f"Clear {size(before)} of caches in {settings.home}?", is_sure=yes)
    leftovers.clear(settings)
    freed = max(0, before - sum(kind.bytes for kind in leftovers.leftovers(settings)))
    if options.is_json:
        screen.print_json({"freed_bytes": freed})
    else:
        screen.say(f"{size(freed)} freed")
