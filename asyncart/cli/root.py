"""The command `asyncart` and its parts. Modules of commands import nothing heavy at their top."""

from __future__ import annotations

import click

from .commands.admin import admin
from .commands.alias import alias
from .commands.bench import bench
from .commands.cache import cache
from .commands.cat import cat
from .commands.db import db
from .commands.demo import demo
from .commands.diff import diff
from .commands.doctor import doctor
from .commands.env import env
from .commands.gc import gc
from .commands.get import get
from .commands.login import login, logout
from .commands.ls import ls
from .commands.put import put
from .commands.rm import rm
from .commands.server import server
from .commands.show import show
from .commands.verify import verify
from .options import Group, Options

EPILOG = """
\b
A REF is [[ENTITY/]PROJECT/]NAME[:ALIAS|:vN]; without a selector it means NAME:latest.
Exit codes: 0 done, 1 it differs (diff, verify, db status), 2 wrong usage, 3 not found,
4 conflict, 5 denied, 6 unavailable, 7 corrupt, 8 transfer failed, 130 Ctrl-C, 143 SIGTERM.
"""


def _print_version(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        from .. import __version__

        click.echo(f"asyncart {__version__}")
        context.exit(0)


@click.group(
    cls=Group,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Versioned, deduplicated artifacts: datasets, models and results. Begin with `asyncart demo`."""
    context.ensure_object(Options)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (
    demo,
    put,
    get,
    ls,
    show,
    cat,
    diff,
    verify,
    alias,
    rm,
    gc,
    cache,
    doctor,
    bench,
    env,
    server,
    login,
    logout,
    db,
    admin,
):
    cli.add_command(command)
