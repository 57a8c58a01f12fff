"""`asyncart rm`: delete versions, one by one, by rules, or all of a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from ...aio import Api, Artifact


@click.command(cls=Command, short_help="Delete versions.")
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option("--keep-last", type=click.IntRange(min=0), metavar="N", help="All but the newest N.")
@click.option(
    "--older-than", metavar="TIME", help="All that was logged before, such as 30d or 12h."
)
@click.option("--all", "is_all", is_flag=True, help="All versions, and the name.")
@click.option(
    "--delete-aliases", is_flag=True, help="Also if aliases other than latest point to it."
)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_options
def rm(
    options: Options,
    refs: tuple[str, ...],
    keep_last: int | None,
    older_than: str | None,
    is_all: bool,
    delete_aliases: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Delete versions. The selector must be said; numbers are not used again.

    With --keep-last or --older-than REF is a name, and its versions that no rule keeps are deleted:
    never that of `latest`, and what has other aliases only with --delete-aliases.

    `asyncart gc` gives back the space of what no other version needs.
    """
    from .. import durations, runner, screen

    age = None if older_than is None else durations.parse(older_than)
    work = _work(refs, keep_last, age, is_all, delete_aliases)
    found = runner.with_api(options, lambda api: work(api, True))
    names = [artifact.qualified_name for artifact in found]
    if dry_run or not names:
        _tell(options, names, is_dry_run=dry_run)
        return
    screen.confirm(f"Delete {', '.join(names)}?", is_sure=yes)
    deleted = runner.with_api(options, lambda api: work(api, False))
    _tell(options, [artifact.qualified_name for artifact in deleted], is_dry_run=False)


Work: TypeAlias = "Callable[[Api, bool], Awaitable[list[Artifact]]]"  # True: a dry run


def _work(
    refs: Sequence[str],
    keep_last: int | None,
    older_than: timedelta | None,
    is_all: bool,
    delete_aliases: bool,
) -> Work:
    """What was asked for. Raises Invalid for what contradicts itself."""
    from ...errors import Invalid
    from .. import targets

    has_rules = keep_last is not None or older_than is not None
    if is_all and has_rules:
        raise Invalid(
            "--all keeps nothing, so it cannot be combined with --keep-last, --older-than"
        )
    if not (is_all or has_rules):
        return _versions([targets.one_version(ref) for ref in refs], delete_aliases)
    for ref in refs:
        if targets.has_selector(ref):
            raise Invalid(
                f"{ref}: a name is needed here, without a version: {ref.partition(':')[0]}"
            )

    async def whole(api: Api, is_dry_run: bool) -> list[Artifact]:
        return [
            artifact
            for ref in dict.fromkeys(refs)
            for artifact in await api.delete_collection(
                ref, delete_aliases=delete_aliases, dry_run=is_dry_run
            )
        ]

    async def outlived(api: Api, is_dry_run: bool) -> list[Artifact]:
        return [
            artifact
            for ref in dict.fromkeys(refs)
            for artifact in await api.prune(
                ref,
                keep_last=keep_last,
                older_than=older_than,
                keep_aliased=not delete_aliases,
                dry_run=is_dry_run,
            )
        ]

    return whole if is_all else outlived


def _versions(refs: Sequence[str], delete_aliases: bool) -> Work:
    found: dict[str, Artifact] = {}

    async def versions(api: Api, is_dry_run: bool) -> list[Artifact]:
        if not found:  # else they were asked about: `latest` may be another one by now
            for ref in refs:
                artifact = await api.artifact(ref)
                found[artifact.qualified_name] = artifact
        if not is_dry_run:
            for name in found:
                await (await api.artifact(name)).delete(delete_aliases=delete_aliases)
        return list(found.values())

    return versions


def _tell(options: Options, names: Sequence[str], *, is_dry_run: bool) -> None:
    from .. import screen

    if options.is_json:
        screen.print_json({"would_delete" if is_dry_run else "deleted": list(names)})
        return
    for name in names:
        screen.say(f"{name}  {'would be deleted' if is_dry_run else 'deleted'}")
    if not names:
        screen.say("nothing to delete")
