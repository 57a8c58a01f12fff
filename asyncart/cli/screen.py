"""What a command answers, on stdout: JSON, or tables that lose nothing whatever they are written to."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .options import Options
from .words import printable

RICH_ROWS = 2000  # rich takes about a millisecond per row; beyond this nobody looks at colours


def print_json(value: Any) -> None:
    """One document; indented for people, one line for machines."""
    indent = 2 if sys.stdout.isatty() else None
    write(json.dumps(value, indent=indent) + "\n")


def say(text: str) -> None:
    """A line of the answer."""
    write(printable(text) + "\n")


def write(text: str, *, at_once: bool = False) -> None:
    """Text as it is; `at_once` for a line of an answer that comes bit by bit."""
    with answering():
        sys.stdout.write(text)
        if at_once:
            sys.stdout.flush()


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Around every write to stdout: a full disk behind it is an error that says so.

    A BrokenPipeError passes: the reader has seen enough.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        from ..errors import Full, Unavailable
        from ..stores.disk import is_full

        kind = Full if is_full(error) else Unavailable
        raise kind(
            f"stdout: {error.strerror or error}: the answer is not complete; repeat it into another place"
        ) from error


def tell(options: Options, text: str) -> None:
    """A remark on stderr, unless `-q`."""
    if options.verbosity >= 0:
        sys.stderr.write(printable(text) + "\n")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> None:
    """Columns; `right` names the headers of those that are aligned to the right (numbers), by spaces."""
    is_right = [header in right.split(" ") for header in headers]
    clean = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty() and len(clean) <= RICH_ROWS:
        _rich_table(headers, clean, is_right)
    else:
        write("".join(line + "\n" for line in plain_table(headers, clean, is_right)))


def plain_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], is_right: Sequence[bool]
) -> list[str]:
    """The lines of a table as wide as it needs to be, without trailing blanks."""
    table_rows = [headers, *rows]
    widths = [max(map(len, column)) for column in zip(*table_rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_right, strict=True)
        ).rstrip()
        for row in table_rows
    ]


def _rich_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], is_right: Sequence[bool]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header, right in zip(headers, is_right, strict=True):
        # Folded, not cut: what does not fit goes on in the next line.
        shown.add_column(header, justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    with answering():
        Console(highlight=False).print(shown)


def facts(pairs: Mapping[str, str | Sequence[str]]) -> None:
    """`name  value` lines; several values stand below each other; empty ones are left out."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        lines = value.splitlines() if isinstance(value, str) else list(value)
        for number, line in enumerate(lines):
            label = styled(f"{name if number == 0 else '':<{width}}", "2")
            write(f"{label}  {printable(line)}\n")


def styled(text: str, code: str) -> str:
    """Text in an ANSI style (an SGR code) where stdout is a terminal and NO_COLOR is not set."""
    return f"\x1b[{code}m{text}\x1b[0m" if has_colour() else text


def has_colour() -> bool:
    import os

    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def confirm(question: str, above: Sequence[str] = ()) -> None:
    """Go on if the user says so, to a question below these lines.

    Without a terminal nobody is asked: then `--yes` has to say it. Raises Denied.
    """
    import click

    from ..errors import Denied

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Denied(f"{question} Nobody can be asked here: --yes says so")
    sys.stderr.write("".join(printable(line) + "\n" for line in above))
    if not click.confirm(printable(question), err=True):
        raise Denied("nothing was changed, because the answer was no")


def say_styled(text: str, code: str) -> None:
    """A line of the answer in an ANSI style."""
    write(styled(printable(text), code) + "\n")
