"""`asyncart diff`: what changed between two versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...aio import Api, ArtifactEntry


class Change(NamedTuple):
    """A path with another content; the size before is None if it was added, after if it was removed."""

    path: str
    before: int | None
    after: int | None

    @property
    def kind(self) -> str:
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


SIGNS = {"added": ("+", "32"), "removed": ("-", "31"), "changed": ("~", "33")}


@click.command(cls=Command, short_help="List what changed between two versions.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@pass_options
def diff(options: Options, a: str, b: str) -> None:
    """List the paths that were added (+), removed (-) and changed (~) from version A to version B.

    B may be a selector alone: `asyncart diff bike-data:v0 :v1`. Like diff(1) it exits with 0 if they are
    the same and with 1 if they differ.
    """
    from .. import runner, screen
    from ..failures import Differs

    other = f"{a.partition(':')[0]}{b}" if b.startswith(":") else b

    async def work(api: Api) -> tuple[str, str, list[Change]]:
        before, after = await api.artifact(a), await api.artifact(other)
        if before.digest == after.digest:
            return before.name, after.name, []
        return before.name, after.name, changes(await before.files(), await after.files())

    name_a, name_b, found = runner.with_api(options, work)
    if options.is_json:
        listed = [
            {"path": c.path, "change": c.kind, "bytes_before": c.before, "bytes_after": c.after}
            for c in found
        ]
        screen.print_json({"a": name_a, "b": name_b, "changes": listed})
    else:
        for change in found:
            screen.say_styled(line(change), SIGNS[change.kind][1])
        screen.tell(options, f"{name_a} and {name_b}: {totals(found)}")
    if found:
        raise Differs


def changes(before: Iterable[ArtifactEntry], after: Iterable[ArtifactEntry]) -> list[Change]:
    """What is different, sorted by path."""
    old = {entry.path: (entry.size, entry.digest) for entry in before}
    found = []
    for entry in after:
        size, digest = old.pop(entry.path, (None, ""))
        if size is None or digest != entry.digest:
            found.append(Change(entry.path, size, entry.size))
    found += [Change(path, size, None) for path, (size, _) in old.items()]
    return sorted(found)


def line(change: Change) -> str:
    """`~ json/decoder.py  12.1 KiB -> 12.2 KiB`"""
    from ..words import size

    sizes = [size(n) for n in (change.before, change.after) if n is not None]
    return f"{SIGNS[change.kind][0]} {change.path}  {' -> '.join(sizes)}"


def totals(found: list[Change]) -> str:
    if not found:
        return "the same content"
    counts = ((kind, sum(change.kind == kind for change in found)) for kind in SIGNS)
    return ", ".join(f"{number:,} {kind}" for kind, number in counts if number)
