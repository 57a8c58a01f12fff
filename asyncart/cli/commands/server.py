"""`asyncart server`: one replica of the store for a team."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...server.serve import Started

F = TypeVar("F", bound=Callable[..., Any])

ENVIRONMENT = "ASYNCART_SERVER_"  # then the option's name: ASYNCART_SERVER_BASE_URL


def option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """An option that may be given as an environment variable instead."""
    long_name = names[0].partition("/")[0].removeprefix("--")
    variable = ENVIRONMENT + long_name.upper().replace("-", "_")
    return click.option(*names, envvar=variable, show_envvar=True, **attributes)


@click.command(
    cls=Command, short_help="Serve a team: the catalog over HTTP, the bytes from a bucket."
)
@option("--host", metavar="HOST", help="The address to listen on (default: 127.0.0.1).")
@option("--port", type=int, metavar="PORT", help="The port (default: 8730; 0: any that is free).")
@option("--catalog", metavar="URL", help="postgresql://... or a path (default: below --home).")
@option("--objects", metavar="URL", help="s3://bucket/prefix or a folder (default: below --home).")
@option("--base-url", metavar="URL", help="How clients reach this server: https://art.example.com.")
@option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="Another name that requests may be sent to (again for more).",
)
@option("--no-auth", is_flag=True, default=None, help="Ask nobody for a key. On loopback only.")
@option("--drain-s", type=float, metavar="S", help="Seconds of grace at the end (default: 5).")
@option("--stop-s", type=float, metavar="S", help="Then wait so long for requests (default: 60).")
@option("--sweep-s", type=float, metavar="S", help="Sweep up so often; 0: never (default: 300).")
@option("--log-format", type=click.Choice(["json", "text"]), help="Of the lines on stderr.")
@pass_options
def server(options: Options, /, **given: Any) -> None:
    """Serve names, versions and runs over HTTP; bytes go straight between clients and the bucket.

    Without options: an SQLite file and a folder below ASYNCART_HOME, for this machine, and a first key that
    is printed once. With --catalog postgresql://... and --objects s3://... nothing is kept on this machine,
    and any number of these work together. SIGTERM ends it without a failed request.
    """
    import asyncio
    import logging

    from ... import config
    from ...server import logs
    from ...server.options import ServerOptions
    from ...server.serve import serve
    from .. import runner

    home = config.load(home=options.home).home
    settings = {name: value for name, value in given.items() if value not in (None, ())}
    replica = ServerOptions(home=home, **settings)
    logs.configure(
        replica.log_format,
        {-1: logging.WARNING, 0: logging.INFO}.get(options.verbosity, logging.DEBUG),
    )

    def started(found: Started) -> None:
        _announce(found, is_json=options.is_json)

    with asyncio.Runner(loop_factory=runner.loop_factory()) as loop:
        loop.run(serve(replica, started=started))


def _announce(found: Started, *, is_json: bool) -> None:
    """On stdout, at once, also into a pipe. Whoever started us may have stopped reading: no reason to end."""
    import contextlib
    import sys

    import msgspec

    from .. import screen

    with contextlib.suppress(OSError, ValueError):
        if is_json:
            screen.print_json(msgspec.to_builtins(found))
        else:
            screen.say(f"asyncart serves {found.catalog} and {found.store} at {found.url}")
            if found.admin_key:
                screen.say("The first administrator's key, which is shown only now:")
                screen.say(f"  {found.admin_key}")
                screen.say(f"Use it: asyncart login {found.url}")
        sys.stdout.flush()
