"""Users, teams, roles, API keys, protected aliases, and the audit log.

Who may do it was decided before (`policy`). Names are checked here and by `checking`; what is left are
the sentences of `catalog.accounts`, and those of `accounts` for what needs the server's secret.
"""

from __future__ import annotations

from ... import wire
from ...catalog import accounts, audit
from ...errors import Invalid
from ...names import LATEST, check_entity
from ..accounts import Accounts
from ..context import Caller
from ..routing import handler

MAX_KEY_NAME = 128
MAX_EXPIRY_S = 100 * 365 * 86_400.0


def _service(caller: Caller) -> Accounts:
    """Also on a server that asks nobody: accounts can be prepared there."""
    return caller.context.accounts or Accounts(caller.context.database)


# users and teams


@handler("list_users")
async def list_users(caller: Caller, request: wire.ListUsers) -> wire.Users:
    found = await caller.context.database.read(
        accounts.list_users, request.after, request.limit + 1
    )
    page = found[: request.limit]
    return wire.Users(users=page, next=page[-1].name if len(found) > len(page) else None)


@handler("create_user")
async def create_user(caller: Caller, request: wire.CreateUser) -> wire.UserAnswer:
    name = check_entity(request.name)
    user = await caller.context.database.write(
        accounts.create_user, name, is_admin=request.is_admin
    )
    return wire.UserAnswer(user=user)


@handler("update_user")
async def update_user(caller: Caller, request: wire.UpdateUser) -> wire.UserAnswer:
    user = await _service(caller).update_user(
        request.user, is_admin=request.is_admin, is_disabled=request.is_disabled
    )
    return wire.UserAnswer(user=user)


@handler("list_teams")
async def list_teams(caller: Caller, request: wire.ListTeams) -> wire.Teams:
    principal = caller.principal
    if principal.project is not None:  # it may be used in one project only, and knows of no other
        return wire.Teams(teams=[])
    found = await caller.context.database.read(
        accounts.list_teams,
        None if principal.is_admin else principal.user_id,
        request.after,
        request.limit + 1,
    )
    page = found[: request.limit]
    return wire.Teams(teams=page, next=page[-1].name if len(found) > len(page) else None)


@handler("create_team")
async def create_team(caller: Caller, request: wire.CreateTeam) -> wire.Done:
    await caller.context.database.write(accounts.create_team, check_entity(request.name))
    return wire.Done()


# roles


@handler("list_members")
async def list_members(caller: Caller, request: wire.ListMembers) -> wire.Roles:
    found = await caller.context.database.read(accounts.list_members, request.entity)
    return wire.Roles(roles=found)


@handler("set_member")
async def set_member(caller: Caller, request: wire.SetMember) -> wire.Done:
    await caller.context.database.write(
        accounts.set_member, request.entity, request.user, request.role
    )
    return wire.Done()


@handler("remove_member")
async def remove_member(caller: Caller, request: wire.RemoveMember) -> wire.Done:
    await caller.context.database.write(accounts.remove_member, request.entity, request.user)
    return wire.Done()


@handler("list_project_roles")
async def list_project_roles(caller: Caller, request: wire.ListProjectRoles) -> wire.Roles:
    found = await caller.context.database.read(
        accounts.list_project_roles, request.entity, request.project
    )
    return wire.Roles(roles=found)


@handler("set_project_role")
async def set_project_role(caller: Caller, request: wire.SetProjectRole) -> wire.Done:
    await caller.context.database.write(
        accounts.set_project_role,
        request.entity,
        request.project,
        request.user,
        request.role,
    )
    return wire.Done()


@handler("remove_project_role")
async def remove_project_role(caller: Caller, request: wire.RemoveProjectRole) -> wire.Done:
    await caller.context.database.write(
        accounts.remove_project_role, request.entity, request.project, request.user
    )
    return wire.Done()


# keys


@handler("list_keys")
async def list_keys(caller: Caller, request: wire.ListKeys) -> wire.Keys:
    principal = caller.principal
    found = await _service(caller).list_keys(request.user or principal.user)
    if principal.project is not None:
        found = [key for key in found if key.project == "/".join(principal.project)]
    return wire.Keys(keys=found)


@handler("create_key")
async def create_key(caller: Caller, request: wire.CreateKey) -> wire.NewKey:
    if len(request.name) > MAX_KEY_NAME or not request.name.isprintable():
        raise Invalid(f"the name of an API key has at most {MAX_KEY_NAME} printable characters")
    expires = request.expires_in_s
    if expires is not None and not 0 < expires <= MAX_EXPIRY_S:
        raise Invalid("an API key expires in more than 0 seconds and less than 100 years")
    return await _service(caller).create_key(
        caller.principal,
        user=request.user,
        name=request.name,
        scopes=request.scopes,
        project=_bound_to(request),
        expires_in_s=expires,
    )


def _bound_to(request: wire.CreateKey) -> tuple[str, str] | None:
    if request.entity is None and request.project is None:
        return None
    if request.entity is None or request.project is None:
        raise Invalid("an API key for one project only needs both: the entity and the project")
    return request.entity, request.project


@handler("revoke_key")
async def revoke_key(caller: Caller, request: wire.RevokeKey) -> wire.Done:
    await _service(caller).revoke_key(request.key_id)
    return wire.Done()


# protected aliases


@handler("list_protected_aliases")
async def list_protected_aliases(
    caller: Caller, request: wire.ListProtectedAliases
) -> wire.ProtectedAliases:
    found = await caller.context.database.read(
        accounts.list_protected_aliases, request.entity, request.project
    )
    return wire.ProtectedAliases(patterns=found)


@handler("protect_alias")
async def protect_alias(caller: Caller, request: wire.ProtectAlias) -> wire.Done:
    if request.pattern == LATEST:
        raise Invalid("'latest' follows what is logged; it cannot be protected")
    await caller.context.database.write(
        accounts.protect_alias,
        request.entity,
        request.project,
        request.collection,
        request.pattern,
    )
    return wire.Done()


@handler("unprotect_alias")
async def unprotect_alias(caller: Caller, request: wire.UnprotectAlias) -> wire.Done:
    await caller.context.database.write(
        accounts.unprotect_alias,
        request.entity,
        request.project,
        request.collection,
        request.pattern,
    )
    return wire.Done()


# the audit log


@handler("list_audit")
async def list_audit(caller: Caller, request: wire.ListAudit) -> wire.Audit:
    found = await caller.context.database.read(
        audit.read, request.entity, request.project, request.after, request.limit + 1
    )
    page = found[: request.limit]
    return wire.Audit(entries=page, next=page[-1].id if len(found) > len(page) else None)
