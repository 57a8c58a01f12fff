"""`asyncart login` and `asyncart logout`: the key for a server, checked and kept."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ... import wire


@click.command(cls=Command, short_help="Store the API key for a server, and use that server.")
@click.argument("url", metavar="URL")
@click.option("--key-stdin", is_flag=True, help="Read the key from stdin instead of asking for it.")
@pass_options
def login(options: Options, url: str, key_stdin: bool) -> None:
    """Check an API key with the server at URL, and keep it.

    It is kept in the keyring of the system, if the package `keyring` is installed, else in a file that only
    you can read, and is never sent to another server. From then on this server is used where nothing else
    is said (ASYNCART_SERVER, or catalog and objects).
    """
    from ... import config, credentials
    from ...apikey import parse_key
    from ...config import LOGIN
    from ...origins import check_origin
    from .. import runner, screen

    resolved = config.resolve(home=options.home)
    settings = resolved.settings
    is_allowed = settings.allow_insecure_http
    origin = check_origin(url, allow_insecure_http=is_allowed)
    api_key = _read_key(origin, from_stdin=key_stdin)
    parse_key(api_key)

    async def check() -> wire.Me:
        return await _ask_who(origin, api_key, allow_insecure_http=is_allowed)

    me = runner.run(options, check)
    where = credentials.log_in(settings.home, origin, api_key)
    if options.is_json:
        said = {"server": origin, "user": me.user, "entity": me.entity, "key": me.key_id}
        screen.print_json({**said, "scopes": me.scopes, "project": me.project, "kept_in": where})
        return
    screen.say(f"{origin}: logged in as {me.user} (key {me.key_id}: {', '.join(me.scopes)})")
    screen.say(f"the key is kept in {where if where != 'keyring' else 'the keyring'}")
    for name in ("server", "catalog", "objects"):
        other = getattr(settings, name)
        if other and other != origin and resolved.sources[name] != LOGIN:
            screen.say(
                f"but {name} is set to {other} ({resolved.sources[name]}), and is used instead"
            )


@click.command(cls=Command, short_help="Forget the API key for a server.")
@click.argument("url", metavar="[URL]", required=False)
@pass_options
def logout(options: Options, url: str | None) -> None:
    """Forget the key for URL (default: the server that you logged in to last).

    The server still knows the key: revoke it there if somebody else may have it.
    """
    from ... import config, credentials
    from ...errors import NotFound
    from ...origins import check_origin
    from .. import screen

    home = config.load(home=options.home).home
    origin = check_origin(url, allow_insecure_http=True) if url else credentials.logged_in_to(home)
    if not origin:
        raise NotFound("there is no login to forget; say which server, as in `asyncart logout URL`")
    if not credentials.log_out(home, origin):
        raise NotFound(f"there is no key for {origin}")
    if options.is_json:
        screen.print_json({"logged_out": origin})
    else:
        screen.say(f"{origin}: logged out")


def _read_key(origin: str, *, from_stdin: bool) -> str:
    from ...errors import Invalid

    if from_stdin:
        return sys.stdin.readline().strip()
    if not sys.stdin.isatty():
        raise Invalid("there is no terminal to ask for the key: pass it with --key-stdin")
    typed: str = click.prompt(f"API key for {origin}", hide_input=True, err=True)
    return typed.strip()


async def _ask_who(origin: str, api_key: str, *, allow_insecure_http: bool) -> wire.Me:
    from ... import wire
    from ...net.control import ServerClient

    client = ServerClient(origin, api_key, allow_insecure_http=allow_insecure_http)
    try:
        return await client.ask(wire.Me, "about_me", wire.AboutMe())
    finally:
        await client.aclose()
