"""`asyncart admin`: users, teams, roles, API keys, protected aliases and the audit log of a server.

Each command is one call to the server that is configured, or that one has logged in to (`asyncart login`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from ..options import Command, Group, Options, pass_options

if TYPE_CHECKING:
    from ... import wire
    from ...net.control import ServerClient

ROLES = ("viewer", "writer", "maintainer", "admin")
SCOPES = ("read", "write", "alias", "delete", "admin")
PAGE = 1000


@click.group(cls=Group, short_help="Manage the users, keys and rights of a server.")
def admin() -> None:
    """Users, teams, roles, API keys, protected aliases, and the audit log of a server."""


def _group(name: str, short_help: str) -> click.Group:
    """A group below `admin`. Its first line of help is the short one, too."""
    made = Group(name, short_help=short_help, help=short_help)
    admin.add_command(made)
    return made


USER = _group("user", "Create, list and disable users.")
TEAM = _group("team", "Create teams, and say who is in them.")
ROLE = _group("role", "Let users into single projects.")
KEY = _group("key", "Create, list and revoke API keys.")
ALIAS = _group("alias", "Protect aliases: only maintainers move them.")


# users


@USER.command("create", cls=Command)
@click.argument("name")
@click.option("--admin", "is_admin", is_flag=True, help="An administrator of the server.")
@pass_options
def create_user(options: Options, name: str, is_admin: bool) -> None:
    """Create the user NAME, who owns the entity of that name."""
    from ... import wire

    answer = _ask(options, wire.UserAnswer, "create_user", name=name, is_admin=is_admin)
    _done(options, f"user {answer.user.name} was created", answer)


@USER.command("list", cls=Command)
@pass_options
def list_users(options: Options) -> None:
    """List all users."""
    from ... import wire
    from ..words import local_time

    users = _pages(options, "list_users", lambda answer: answer.users, wire.Users)
    rows = [
        [user.name, "admin" if user.is_admin else "", _state(user), local_time(user.created_at)]
        for user in users
    ]
    _rows(options, ["USER", "SERVER", "STATE", "CREATED"], rows, users)


def _state(user: wire.User) -> str:
    return "disabled" if user.is_disabled else ""


@USER.command("update", cls=Command)
@click.argument("name")
@click.option("--admin/--no-admin", "is_admin", default=None, help="Administrator of the server?")
@click.option(
    "--disable/--enable", "is_disabled", default=None, help="Refuse the user's keys, or not."
)
@pass_options
def update_user(
    options: Options, name: str, is_admin: bool | None, is_disabled: bool | None
) -> None:
    """Change what the user NAME may. Keys of a disabled user are refused from now on."""
    from ... import wire

    changes = {"is_admin": is_admin, "is_disabled": is_disabled}
    answer = _ask(options, wire.UserAnswer, "update_user", user=name, **changes)
    _done(options, f"user {name} was changed", answer)


# teams


@TEAM.command("create", cls=Command)
@click.argument("name")
@pass_options
def create_team(options: Options, name: str) -> None:
    """Create the team NAME, without members."""
    _do(options, f"team {name} was created", "create_team", name=name)


@TEAM.command("list", cls=Command)
@pass_options
def list_teams(options: Options) -> None:
    """List your teams, and your role in each."""
    from ... import wire

    teams = _pages(options, "list_teams", lambda answer: answer.teams, wire.Teams)
    _rows(options, ["TEAM", "ROLE"], [[team.name, team.role.value] for team in teams], teams)


@TEAM.command("members", cls=Command)
@click.argument("team")
@pass_options
def list_members(options: Options, team: str) -> None:
    """List the members of TEAM."""
    from ... import wire

    answer = _ask(options, wire.Roles, "list_members", entity=team)
    _print_roles(options, answer)


@TEAM.command("add", cls=Command)
@click.argument("team")
@click.argument("user")
@click.option("--role", type=click.Choice(ROLES), default="writer", show_default=True)
@pass_options
def set_member(options: Options, team: str, user: str, role: str) -> None:
    """Make USER a member of TEAM, or change the role of a member."""
    _do(
        options,
        f"{user} is {role} of {team}",
        "set_member",
        entity=team,
        user=user,
        role=_role(role),
    )


@TEAM.command("remove", cls=Command)
@click.argument("team")
@click.argument("user")
@pass_options
def remove_member(options: Options, team: str, user: str) -> None:
    """Take USER out of TEAM, and out of its projects."""
    _do(
        options,
        f"{user} is not in {team} any more",
        "remove_member",
        entity=team,
        user=user,
    )


# roles in projects

PROJECT = click.argument("where", metavar="ENTITY/PROJECT")


@ROLE.command("list", cls=Command)
@PROJECT
@pass_options
def list_roles(options: Options, where: str) -> None:
    """List the roles that were given in one project; those of the team come on top."""
    from ... import wire

    _print_roles(options, _ask(options, wire.Roles, "list_project_roles", **_project(where)))


@ROLE.command("set", cls=Command)
@PROJECT
@click.argument("user")
@click.argument("role", type=click.Choice(ROLES))
@pass_options
def set_role(options: Options, where: str, user: str, role: str) -> None:
    """Give USER at least ROLE in one project, also if not in the team."""
    place = _project(where)
    said = f"{user} is {role} in {where}"
    _do(options, said, "set_project_role", **place, user=user, role=_role(role))


@ROLE.command("remove", cls=Command)
@PROJECT
@click.argument("user")
@pass_options
def remove_role(options: Options, where: str, user: str) -> None:
    """Take back the role that USER was given in one project."""
    said = f"{user} has no role of their own in {where} any more"
    _do(options, said, "remove_project_role", **_project(where), user=user)


# keys


@KEY.command("create", cls=Command)
@click.option("--user", help="For whom (default: for yourself).")
@click.option("--name", default="", help="What it is for, as a reminder.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="What it may be used for; again for several (default: read, write and alias).",
)
@click.option("--only", metavar="ENTITY/PROJECT", help="Nowhere but in this project.")
@click.option("--expires", metavar="TIME", help="After that it ends: 30d, 12h.")
@pass_options
def create_key(
    options: Options,
    user: str | None,
    name: str,
    scopes: Sequence[str],
    only: str | None,
    expires: str | None,
) -> None:
    """Create an API key. It is printed once: nobody can read it again."""
    from ... import wire
    from .. import durations, screen

    answer = _ask(
        options,
        wire.NewKey,
        "create_key",
        user=user,
        name=name,
        scopes=[wire.Scope(scope) for scope in scopes or SCOPES[:3]],
        **({} if only is None else _project(only)),
        expires_in_s=None if expires is None else durations.parse(expires).total_seconds(),
    )
    if options.is_json:
        _done(options, "", answer)
        return
    screen.say(answer.text)
    screen.tell(
        options, f"asyncart: key {answer.key.id} is shown this once; keep it in a safe place"
    )


@KEY.command("list", cls=Command)
@click.option("--user", help="Whose (default: your own).")
@pass_options
def list_keys(options: Options, user: str | None) -> None:
    """List API keys, also those that have ended."""
    from ... import wire
    from ..words import local_time

    keys = _ask(options, wire.Keys, "list_keys", user=user).keys
    rows = [
        [
            key.id,
            key.name,
            ",".join(key.scopes),
            key.project or "",
            "revoked" if key.revoked_at else local_time(key.expires_at) if key.expires_at else "",
            key.used_on or "never",
        ]
        for key in keys
    ]
    _rows(options, ["KEY", "NAME", "SCOPES", "ONLY", "ENDS", "USED"], rows, keys)


@KEY.command("revoke", cls=Command)
@click.argument("key_id", metavar="KEY")
@pass_options
def revoke_key(options: Options, key_id: str) -> None:
    """End the API key with the id KEY (what stands between the first two `_` of it), for good."""
    _do(options, f"key {key_id} is revoked", "revoke_key", key_id=key_id)


# protected aliases


@ALIAS.command("list", cls=Command)
@PROJECT
@pass_options
def list_protected(options: Options, where: str) -> None:
    """List the protected aliases of a project."""
    from ... import wire

    place = _project(where)
    patterns = _ask(options, wire.ProtectedAliases, "list_protected_aliases", **place).patterns
    rows = [[each.pattern, each.collection or "(all)"] for each in patterns]
    _rows(options, ["PATTERN", "ARTIFACT"], rows, patterns)


@ALIAS.command("protect", cls=Command)
@PROJECT
@click.argument("pattern")
@click.option("--artifact", help="Only of this one (default: of all in the project).")
@pass_options
def protect(options: Options, where: str, pattern: str, artifact: str | None) -> None:
    """Let only maintainers move aliases that match PATTERN, such as `prod` or 'release-*'."""
    said = f"{pattern} is protected in {where}"
    place = _project(where)
    _do(options, said, "protect_alias", **place, collection=artifact, pattern=pattern)


@ALIAS.command("unprotect", cls=Command)
@PROJECT
@click.argument("pattern")
@click.option("--artifact", help="As it was given to protect.")
@pass_options
def unprotect(options: Options, where: str, pattern: str, artifact: str | None) -> None:
    """Let all writers move them again."""
    said = f"{pattern} is not protected in {where} any more"
    place = _project(where)
    _do(options, said, "unprotect_alias", **place, collection=artifact, pattern=pattern)


# the audit log


@admin.command("audit", cls=Command, short_help="Show who did what.")
@click.argument("where", metavar="[ENTITY[/PROJECT]]", required=False)
@click.option(
    "-n", "--last", type=click.IntRange(min=1), default=50, show_default=True, help="So many."
)
@pass_options
def audit(options: Options, where: str | None, last: int) -> None:
    """Show the last changes of names, rights and existence, the newest first."""
    from ... import wire
    from ..words import local_time

    place: dict[str, Any] = {}
    if where is not None:
        place = _project(where) if "/" in where else {"entity": where}
    entries = _pages(
        options, "list_audit", lambda answer: answer.entries, wire.Audit, most=last, **place
    )
    rows = [
        [
            local_time(entry.at),
            entry.user,
            entry.key_id,
            entry.action,
            "/".join(filter(None, (entry.entity, entry.project))),
            entry.subject,
        ]
        for entry in entries
    ]
    _rows(options, ["WHEN", "USER", "KEY", "ACTION", "WHERE", "WHAT"], rows, entries)


# calls


def _ask(options: Options, kind: type[Any], route: str, **fields: Any) -> Any:
    """The server's answer to one call."""
    from ... import wire
    from .. import runner

    request = wire.ROUTES[route].request(**fields)

    async def work() -> Any:
        async with _connected(options) as client:
            return await client.ask(kind, route, request)

    return runner.run(options, work)


def _pages(
    options: Options,
    route: str,
    items: Callable[[Any], list[Any]],
    kind: type[Any],
    most: int | None = None,
    **fields: Any,
) -> list[Any]:
    """All pages of a list, or its first `most` items."""
    from ... import wire
    from .. import runner

    async def work() -> list[Any]:
        found: list[Any] = []
        after: Any = None
        async with _connected(options) as client:
            while most is None or len(found) < most:
                limit = PAGE if most is None else min(PAGE, most - len(found))
                request = wire.ROUTES[route].request(**fields, after=after, limit=limit)
                answer = await client.ask(kind, route, request)
                found += items(answer)
                after = answer.next
                if after is None:
                    break
        return found

    return runner.run(options, work)


@asynccontextmanager
async def _connected(options: Options) -> AsyncIterator[ServerClient]:
    """The server that is configured, with the key that is, or that was stored for it."""
    from ... import config
    from ...aio.served import Served
    from ...engine.tasks import Threads
    from ...errors import Invalid

    settings = config.load(home=options.home)
    if not settings.server:
        raise Invalid("there is no server to manage: `asyncart login URL`, or set ASYNCART_SERVER")
    served = await Served.open(settings, Threads(1))
    try:
        yield served.catalog.client
    finally:
        await served.aclose()


def _do(options: Options, said: str, route: str, **fields: Any) -> None:
    from ... import wire

    _done(options, said, _ask(options, wire.Done, route, **fields))


def _done(options: Options, said: str, answer: wire.Answer) -> None:
    import msgspec

    from .. import screen

    if options.is_json:
        screen.print_json(msgspec.to_builtins(answer))
    else:
        screen.say(said)


def _rows(
    options: Options, headers: Sequence[str], rows: Sequence[Sequence[str]], found: Sequence[Any]
) -> None:
    import msgspec

    from .. import screen

    if options.is_json:
        screen.print_json(msgspec.to_builtins(list(found)))
    else:
        screen.table(headers, rows)


def _print_roles(options: Options, answer: wire.Roles) -> None:
    rows = [[granted.user, granted.role.value] for granted in answer.roles]
    _rows(options, ["USER", "ROLE"], rows, answer.roles)


def _role(name: str) -> wire.Role:
    from ... import wire

    return wire.Role(name)


def _project(text: str) -> dict[str, Any]:
    from ...errors import Invalid

    entity, slash, project = text.partition("/")
    if not slash:
        raise Invalid(f"project {text!r}: write it as ENTITY/PROJECT")
    return {"entity": entity, "project": project}
