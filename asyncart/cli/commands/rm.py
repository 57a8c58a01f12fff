"""`asyncart rm`: delete versions, one by one, by rules, or all of a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import click

from ...errors import Conflict, Invalid
from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from datetime import timedelta

    from ...aio import Api, Artifact

NAMES_IN_A_QUESTION = 3  # more of them stand above it, on lines of their own


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
    if yes or dry_run:
        found = runner.with_api(options, lambda api: work(api, dry_run))
        _tell(options, _names(found), is_dry_run=dry_run)
        return
    shown = _names(runner.with_api(options, lambda api: work(api, True)))
    if not shown:
        _tell(options, [], is_dry_run=False)
        return
    if len(shown) <= NAMES_IN_A_QUESTION:
        screen.confirm(f"Delete {', '.join(shown)}?")
    else:
        screen.confirm(f"Delete these {len(shown):,} versions?", above=shown)

    async def delete_what_was_shown(api: Api) -> list[Artifact]:
        """The question may have stood there for hours: nothing goes that it did not name."""
        found = await work(api, True)
        if (now := _names(found)) != shown:
            raise Conflict(
                f"{', '.join(sorted({*now} ^ {*shown}))}: changed while you were asked; "
                "nothing was deleted, run it again to see what would be"
            )
        return await work(api, False, found)

    deleted = runner.with_api(options, delete_what_was_shown)
    _tell(options, _names(deleted), is_dry_run=False)


class Work(Protocol):
    """With `expected`, these and no others are deleted."""

    async def __call__(
        self, api: Api, is_dry_run: bool, expected: list[Artifact] | None = None
    ) -> list[Artifact]: ...


def _names(artifacts: Sequence[Artifact]) -> list[str]:
    return [artifact.qualified_name for artifact in artifacts]


def _work(
    refs: Sequence[str],
    keep_last: int | None,
    older_than: timedelta | None,
    is_all: bool,
    delete_aliases: bool,
) -> Work:
    """What was asked for. Raises Invalid for what contradicts itself."""
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

    async def whole(
        api: Api, is_dry_run: bool, expected: list[Artifact] | None = None
    ) -> list[Artifact]:
        return [
            artifact
            for ref in dict.fromkeys(refs)
            for artifact in await api.delete_collection(
                ref, delete_aliases=delete_aliases, expected=expected, dry_run=is_dry_run
            )
        ]

    async def outlived(
        api: Api, is_dry_run: bool, expected: list[Artifact] | None = None
    ) -> list[Artifact]:
        return [
            artifact
            for ref in dict.fromkeys(refs)
            for artifact in await api.prune(
                ref,
                keep_last=keep_last,
                older_than=older_than,
                keep_aliased=not delete_aliases,
                expected=expected,
                dry_run=is_dry_run,
            )
        ]

    return whole if is_all else outlived


def _versions(refs: Sequence[str], delete_aliases: bool) -> Work:
    async def versions(
        api: Api, is_dry_run: bool, expected: list[Artifact] | None = None
    ) -> list[Artifact]:
        artifacts = expected if expected is not None else [await api.artifact(r) for r in refs]
        found = {artifact.qualified_name: artifact for artifact in artifacts}
        if not is_dry_run:
            for artifact in found.values():
                await artifact.delete(delete_aliases=delete_aliases)
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
