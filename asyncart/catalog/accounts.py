"""Users, teams, and who has which role where.

A user and a team are the same kind of row, because their names mean the same thing: the owner of an
entity. A user is the admin of the entity of their own name; a team has members. A role in a single
project raises what a member may do there, or lets in somebody who is not in the team. A role is never
lowered by another: the highest one counts.

Accounts are never deleted, only disabled: their names stand in the audit log and on what they own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, delete, func, null, or_, select, union_all, update
from sqlalchemy.engine import Connection, Row

from asyncart.errors import Conflict, Invalid, NotFound
from asyncart.wire import Granted, ProtectedAlias, Role, Team, User

from . import bulk, clock
from .tables import TEAM, USER, accounts, memberships, project_roles, protected_aliases


class Grants(NamedTuple):
    """The roles of one user in one entity."""

    in_entity: Role | None
    in_projects: Mapping[str, Role]


# accounts


def create_user(conn: Connection, name: str, *, is_admin: bool) -> User:
    """Conflict if the name is taken, by a user or by a team."""
    return _user(_create(conn, name, USER, is_admin=is_admin))


def create_team(conn: Connection, name: str) -> None:
    """It has no members yet: an administrator of the server makes somebody its admin."""
    _create(conn, name, TEAM, is_admin=False)


def _create(conn: Connection, name: str, kind: int, *, is_admin: bool) -> Row[Any]:
    row = {"name": name, "kind": kind, "is_admin": is_admin, "created_at": clock.now(conn)}
    is_new = bulk.insert_if_new(conn, accounts, row)
    there = _named(conn, name)
    assert there is not None
    if not is_new:
        what = "team" if there.kind == TEAM else "user"
        raise Conflict(f"the name '{name}' is taken by a {what}; choose another")
    return there


def update_user(
    conn: Connection, name: str, *, is_admin: bool | None, is_disabled: bool | None
) -> User:
    """Conflict if no administrator would be left who can log in."""
    lock = select(accounts.c.id).where(accounts.c.is_admin).order_by(accounts.c.id)
    conn.execute(lock.with_for_update())  # two administrators may disable each other
    row = user_row(conn, name)
    changes = {"is_admin": is_admin, "is_disabled": is_disabled}
    changes = {column: value for column, value in changes.items() if value is not None}
    if changes:
        conn.execute(update(accounts).where(accounts.c.id == row.id).values(**changes))
    able = accounts.c.is_admin & ~accounts.c.is_disabled
    if not conn.execute(select(func.count()).select_from(accounts).where(able)).scalar_one():
        raise Conflict(
            f"user {name} is the last administrator of this server; make somebody else one first"
        )
    return _user(user_row(conn, name))


def list_users(conn: Connection, after: str | None, limit: int) -> list[User]:
    query = select(accounts).where(accounts.c.kind == USER).order_by(accounts.c.name).limit(limit)
    if after is not None:
        query = query.where(accounts.c.name > after)
    return [_user(row) for row in conn.execute(query)]


def user_row(conn: Connection, name: str) -> Row[Any]:
    row = _named(conn, name)
    if row is None or row.kind != USER:
        raise no_user(name)
    return row


def no_user(name: str) -> NotFound:
    return NotFound(f"there is no user '{name}'")


def _team_row(conn: Connection, name: str) -> Row[Any]:
    row = _named(conn, name)
    if row is None or row.kind != TEAM:
        raise Invalid(
            f"'{name}' is no team, and only teams have members; "
            f"let somebody into single projects instead (asyncart admin role)"
        )
    return row


def _named(conn: Connection, name: str) -> Row[Any] | None:
    return conn.execute(select(accounts).where(accounts.c.name == name)).first()


def _user(row: Row[Any]) -> User:
    return User(
        name=row.name,
        is_admin=row.is_admin,
        is_disabled=row.is_disabled,
        created_at=row.created_at,
    )


# roles


def grants(conn: Connection, user_id: int, entity: str) -> Grants:
    """What was granted; that a user is the admin of their own entity needs no grant."""
    found = {
        project: Role(role)
        for role, project in conn.execute(_GRANTS, {"user_id": user_id, "entity": entity})
    }
    return Grants(found.pop(None, None), found)


# Made once: putting it together anew takes longer than the database needs for the answer.
_GRANTS = union_all(
    select(memberships.c.role, null().label("project"))
    .join(accounts, accounts.c.id == memberships.c.team_id)
    .where(memberships.c.user_id == bindparam("user_id"), accounts.c.name == bindparam("entity")),
    select(project_roles.c.role, project_roles.c.project).where(
        project_roles.c.user_id == bindparam("user_id"),
        project_roles.c.entity == bindparam("entity"),
    ),
)


def list_teams(conn: Connection, user_id: int | None, after: str | None, limit: int) -> list[Team]:
    """Those of the user, with the user's role; with None all of them, as their admin."""
    query = select(accounts.c.name, memberships.c.role)
    mine = and_(memberships.c.team_id == accounts.c.id, memberships.c.user_id == user_id)
    query = query.select_from(
        accounts.outerjoin(memberships, mine)
        if user_id is None
        else accounts.join(memberships, mine)
    )
    query = query.where(accounts.c.kind == TEAM).order_by(accounts.c.name).limit(limit)
    if after is not None:
        query = query.where(accounts.c.name > after)
    return [
        Team(name=row.name, role=Role.ADMIN if user_id is None else Role(row.role))
        for row in conn.execute(query)
    ]


def list_members(conn: Connection, entity: str) -> list[Granted]:
    """Sorted by name. The only member of a user's own entity is that user."""
    there = _named(conn, entity)
    if there is None:
        return []
    if there.kind == USER:
        return [Granted(user=entity, role=Role.ADMIN)]
    query = (
        select(accounts.c.name, memberships.c.role)
        .join(accounts, accounts.c.id == memberships.c.user_id)
        .where(memberships.c.team_id == there.id)
        .order_by(accounts.c.name)
    )
    return [Granted(user=row.name, role=Role(row.role)) for row in conn.execute(query)]


def set_member(conn: Connection, entity: str, user: str, role: Role) -> None:
    team, member = _team_row(conn, entity), user_row(conn, user)
    row = {"team_id": team.id, "user_id": member.id, "role": role.value}
    bulk.upsert(conn, memberships, [row])


def remove_member(conn: Connection, entity: str, user: str) -> None:
    """Gone from every project of the entity too."""
    team, member = _team_row(conn, entity), user_row(conn, user)
    conn.execute(
        delete(memberships).where(
            memberships.c.team_id == team.id, memberships.c.user_id == member.id
        )
    )
    conn.execute(
        delete(project_roles).where(
            project_roles.c.user_id == member.id, project_roles.c.entity == entity
        )
    )


def list_project_roles(conn: Connection, entity: str, project: str) -> list[Granted]:
    query = (
        select(accounts.c.name, project_roles.c.role)
        .join(accounts, accounts.c.id == project_roles.c.user_id)
        .where(project_roles.c.entity == entity, project_roles.c.project == project)
        .order_by(accounts.c.name)
    )
    return [
        Granted(user=row.name, role=Role(row.role), project=project) for row in conn.execute(query)
    ]


def set_project_role(conn: Connection, entity: str, project: str, user: str, role: Role) -> None:
    row = {"entity": entity, "project": project, "role": role.value}
    row["user_id"] = user_row(conn, user).id
    bulk.upsert(conn, project_roles, [row])


def remove_project_role(conn: Connection, entity: str, project: str, user: str) -> None:
    conn.execute(
        delete(project_roles).where(
            project_roles.c.user_id == user_row(conn, user).id,
            project_roles.c.entity == entity,
            project_roles.c.project == project,
        )
    )


# protected aliases


def protect_alias(
    conn: Connection, entity: str, project: str, collection: str | None, pattern: str
) -> None:
    row = {"entity": entity, "project": project, "collection": collection or "", "pattern": pattern}
    bulk.insert_new(conn, protected_aliases, [row])


def unprotect_alias(
    conn: Connection, entity: str, project: str, collection: str | None, pattern: str
) -> None:
    conn.execute(
        delete(protected_aliases).where(
            protected_aliases.c.entity == entity,
            protected_aliases.c.project == project,
            protected_aliases.c.collection == (collection or ""),
            protected_aliases.c.pattern == pattern,
        )
    )


def list_protected_aliases(
    conn: Connection, entity: str, project: str, collection: str | None = None
) -> list[ProtectedAlias]:
    """Those of the project; with a collection, those that hold in it."""
    query = select(protected_aliases.c.collection, protected_aliases.c.pattern).where(
        protected_aliases.c.entity == entity, protected_aliases.c.project == project
    )
    if collection is not None:
        named = protected_aliases.c.collection
        query = query.where(or_(named == collection, named == ""))
    query = query.order_by(protected_aliases.c.collection, protected_aliases.c.pattern)
    return [
        ProtectedAlias(collection=row.collection or None, pattern=row.pattern)
        for row in conn.execute(query)
    ]
