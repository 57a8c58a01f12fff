"""`asyncart db`: the schema of a catalog, looked at and brought up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import Command, Group, Options, pass_options

if TYPE_CHECKING:
    from ...catalog.opening import SchemaState

CATALOG = click.option(
    "--catalog",
    metavar="URL",
    envvar="ASYNCART_SERVER_CATALOG",
    show_envvar=True,
    help="postgresql://... or a path (default: the server's own, below --home).",
)


@click.group(cls=Group, short_help="Show or upgrade the schema of a server's catalog.")
def db() -> None:
    """The tables of a catalog. A server works with the schema that it knows, and refuses any other."""


@db.command("status", cls=Command)
@CATALOG
@pass_options
def status(options: Options, catalog: str | None) -> None:
    """Say which schema the catalog has. Exits with 1 if it is not the one that this version works with."""
    from ...catalog.opening import schema_state
    from .. import runner, screen
    from ..failures import Differs

    url = _catalog_url(options, catalog)
    state = runner.run(options, lambda: schema_state(url))
    if options.is_json:
        screen.print_json(
            {
                "catalog": state.name,
                "schema": state.found,
                "known": list(state.known),
                "is_current": state.is_current,
            }
        )
    else:
        screen.say(f"{state.name}: {verdict(state)}")
    if not state.is_current:
        raise Differs


@db.command("upgrade", cls=Command)
@CATALOG
@pass_options
def upgrade(options: Options, catalog: str | None) -> None:
    """Make the tables, or bring them up to date. Servers of an older version stop being ready then."""
    from ... import catalog as catalogs
    from ...catalog.opening import schema_state
    from .. import runner, screen

    url = _catalog_url(options, catalog)

    async def work() -> tuple[SchemaState, SchemaState]:
        before = await schema_state(url)
        await catalogs.upgrade(url)
        return before, await schema_state(url)

    before, after = runner.run(options, work)
    if options.is_json:
        screen.print_json({"catalog": after.name, "before": before.found, "schema": after.found})
    elif before.is_current:
        screen.say(f"{after.name}: has schema {after.found} already")
    else:
        screen.say(f"{after.name}: schema {before.found or 'none'} -> {after.found}")


def verdict(state: SchemaState) -> str:
    if state.is_current:
        return f"schema {state.found}, as this version needs it"
    if state.is_empty:
        return "empty; a server makes its tables, or `asyncart db upgrade` does"
    if not state.is_unknown:
        return f"schema {state.found}, {state.known[-1]} is needed: `asyncart db upgrade`"
    if state.found is None:
        return "the database of something else"
    return f"schema {state.found}, of a newer asyncart; this version knows up to {state.known[-1]}"


def _catalog_url(options: Options, given: str | None) -> str:
    from ... import config
    from ...server.options import ServerOptions

    home = config.load(home=options.home).home
    return ServerOptions(home=home, catalog=given or "").catalog_url
