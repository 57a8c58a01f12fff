"""`asyncart cache`: what is kept on this machine for speed alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..options import Command, Group, Options, pass_options

if TYPE_CHECKING:
    from ...stores.cache import CachedObject, Statistics


@click.group(cls=Group, short_help="List, prune or clear what is kept for speed alone.")
def cache() -> None:
    """What asyncart keeps for speed alone: losing it costs time, never data."""


@cache.command("ls", cls=Command, short_help="List it with its size.")
@click.option("--objects", "with_objects", is_flag=True, help="List the cached objects, too.")
@pass_options
def ls(options: Options, with_objects: bool) -> None:
    """List it with its size, and how useful the cache for remote objects was."""
    import msgspec

    from ... import config
    from ...aio import leftovers
    from .. import screen
    from ..words import size

    settings = config.load(home=options.home)
    kinds = leftovers.leftovers(settings)
    store = leftovers.object_cache(settings)
    statistics = store.statistics()
    objects = sorted(store.objects(), key=lambda each: -each.used_at) if with_objects else None
    if options.is_json:
        found: dict[str, Any] = {
            "kinds": msgspec.to_builtins(kinds),
            "limit_bytes": settings.cache_bytes,
            "statistics": msgspec.to_builtins(statistics),
        }
        if objects is not None:
            found["objects"] = [_as_json(each) for each in objects]
        screen.print_json(found)
        return
    rows = [[kind.name, f"{kind.files:,}", size(kind.bytes), kind.path] for kind in kinds]
    screen.table(["WHAT", "FILES", "SIZE", "PATH"], rows, right="FILES SIZE")
    screen.say(summary(settings.cache_bytes, statistics))
    if objects:
        _print_objects(objects)


def _as_json(each: CachedObject) -> dict[str, Any]:
    from ..words import utc

    return {"object_id": each.object_id, "bytes": each.bytes, "used_at": utc(each.used_at)}


def _print_objects(objects: list[CachedObject]) -> None:
    from .. import screen
    from ..words import local_time, size

    screen.say("")
    rows = [[each.object_id, size(each.bytes), local_time(each.used_at)] for each in objects]
    screen.table(["OBJECT", "SIZE", "LAST USED"], rows, right="SIZE")


def summary(limit_bytes: int, statistics: Statistics) -> str:
    """One line about the cache for remote objects."""
    from ..words import size

    if not limit_bytes:
        return "objects of remote stores are not cached (cache_bytes = 0)"
    asked = statistics.hit_bytes + statistics.missed_bytes
    line = f"up to {size(limit_bytes)} of objects of remote stores"
    if asked:
        share = 100 * statistics.hit_bytes // asked
        line += f"; {size(statistics.hit_bytes)} ({share} %) of {size(asked)} were read from there"
    return line


def _bytes(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A size as it is written in the configuration."""
    from ...config import parse_size

    if value is None:
        return None
    try:
        found = parse_size(value)
    except (ValueError, OverflowError):
        found = -1
    if found < 0:
        raise click.BadParameter(f"{value!r} is not a size; write 500M or 20GiB")
    return found


@cache.command("prune", cls=Command, short_help="Remove the cached objects that are used least.")
@click.option(
    "--to",
    "to_bytes",
    metavar="SIZE",
    callback=_bytes,
    help="Down to this size, as in 500M or 20GiB (default: the limit).",
)
@pass_options
def prune(options: Options, to_bytes: int | None) -> None:
    """Remove cached objects that were not used for the longest time. Safe while others use them."""
    from ... import config
    from ...aio import leftovers
    from .. import screen
    from ..words import count, size

    settings = config.load(home=options.home)
    wanted = settings.cache_bytes if to_bytes is None else to_bytes
    removed = leftovers.object_cache(settings).prune(wanted)
    if options.is_json:
        screen.print_json({"removed_objects": removed.objects, "freed_bytes": removed.bytes})
    else:
        screen.say(f"{count(removed.objects, 'object')} removed, {size(removed.bytes)} freed")


@cache.command("clear", cls=Command, short_help="Remove all of it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_options
def clear(options: Options, yes: bool) -> None:
    """Remove all of it. The next `put` of unchanged files has to read them again."""
    from ... import config
    from ...aio import leftovers
    from .. import screen
    from ..words import size

    settings = config.load(home=options.home)
    before = sum(kind.bytes for kind in leftovers.leftovers(settings))
    if not yes:
        screen.confirm(f"Clear {size(before)} of caches in {settings.home}?")
    leftovers.clear(settings)
    freed = max(0, before - sum(kind.bytes for kind in leftovers.leftovers(settings)))
    if options.is_json:
        screen.print_json({"freed_bytes": freed})
    else:
        screen.say(f"{size(freed)} freed")
