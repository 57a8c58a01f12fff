"""The options that every command has, before or after its name: `asyncart --json ls`, `asyncart ls --json`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource


class Options:
    """What they were set to. None: not given, so the configuration decides."""

    def __init__(self) -> None:
        self.home: str | None = None
        self.project: str | None = None
        self.entity: str | None = None
        self.settings: dict[str, Any] = {}  # others that were given on the command line
        self.is_json = False
        self.verbosity = 0  # -1: errors only; 1: what is being done; 2: everything, with tracebacks
        self.progress: bool | None = (
            None  # None: on a terminal bars, else lines; with --json nothing
        )


class ReaderGone(Exception):
    """Nobody reads our stdout any more."""


class Command(click.Command):
    """A command that takes the common options too, without listing them again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options(is_hidden=True))
        self.epilog = "The options of `asyncart --help` may stand here, too."

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error  # click would end the process itself, with 1


class Group(click.Group):
    """A group whose commands keep the order in which they were added."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options(is_hidden=False))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def common_options(*, is_hidden: bool) -> list[click.Option]:
    def option(*names: str, help: str, **attributes: Any) -> click.Option:
        return click.Option(
            names, help=help, expose_value=False, hidden=is_hidden, callback=_note, **attributes
        )

    return [
        option(
            "--home",
            metavar="DIR",
            help="Where asyncart keeps its data (default: ASYNCART_HOME, or the user's data folder).",
        ),
        option("--project", metavar="NAME", help="The project of names that give none."),
        option("--entity", metavar="NAME", help="The owner of projects that give none."),
        option(
            "--limit-rate",
            metavar="SIZE",
            help="Move at most so many bytes per second from and to a remote store: 500k, 20M.",
        ),
        option("--json", "is_json", is_flag=True, help="Print JSON, exact and complete."),
        option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
        option(
            "-v", "--verbose", count=True, help="Say what is being done; -vv shows tracebacks, too."
        ),
        option(
            "--progress/--no-progress",
            default=None,
            help="Show progress (default: on a terminal bars, elsewhere a line every 30 s, never with --json).",
        ),
    ]


def _note(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    name = parameter.name or ""
    if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
        return
    options = context.ensure_object(Options)
    if name == "quiet":
        options.verbosity = -1
    elif name == "verbose":
        options.verbosity = value
    elif name == "limit_rate":
        options.settings["limit_rate_bytes"] = value
    else:
        setattr(options, name, value)


pass_options = click.make_pass_decorator(Options, ensure=True)
