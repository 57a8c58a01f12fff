"""Who may what: one declaration per route, and the principal that it is held against.

An action needs a scope of the API key *and* a role of its user, there where the action happens. A policy
says which scope, which role at least, and what in the request leads there (`Target`); following it is
`access`'s business. Whoever may not even read what is asked for gets the same answer as for what does not
exist. So an answer never tells whether something foreign is there:

- `NOT_FOUND`: the NotFound that the catalog would raise,
- `OVER`: the Conflict that it raises for a session that is over,
- `NOTHING`: the answer that nothing is there, for verbs that are content with that.

Who may read but not do it gets Denied.

Whatever ends somebody's version needs the scope `delete` and a maintainer, also where it ends later: so does
a time to live for a version that is there. Whoever logs a new version may give it one; logging the same
again never shortens it. An alias keeps a version that has one, for as long as it points there: where writers
must not take it away, it is to be a protected one.
"""

from __future__ import annotations

import enum

import msgspec

from ..wire import Role, Scope

__all__ = ["POLICIES", "Policy", "Principal", "Role", "Scope", "Target", "Unseen"]


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls. `project` is (entity, project) of a key that may be used there only.

    Their entity, where they may do everything, has their name. `is_admin`: of the server, and so of
    every entity.
    """

    user_id: int
    user: str
    key_id: str
    scopes: frozenset[Scope]
    project: tuple[str, str] | None = None
    is_admin: bool = False


class Target(enum.Enum):
    """What decides: where the role is needed."""

    ANYBODY = enum.auto()  # a valid key is enough; the handler gives what is the caller's own
    SERVER = enum.auto()  # administrators of the server
    ENTITY = enum.auto()  # request.entity
    LISTING = enum.auto()  # request.entity, as far as the caller may see it
    PROJECT = enum.auto()  # request.entity, request.project
    COLLECTION = enum.auto()  # the project of request.collection
    NEW_RUN = enum.auto()  # the project of request.run
    RUN = enum.auto()  # the project of the run
    VERSION = enum.auto()  # the project of the version
    NEW_SESSION = enum.auto()  # request.entity, with or without a project
    SESSION = enum.auto()  # the caller's own
    COMMIT = enum.auto()  # the caller's own session, and the project of request.collection
    SESSION_UPLOAD = enum.auto()  # an object of a session of the caller, under that session
    UPLOAD = enum.auto()  # an object of a session of the caller
    OBJECTS = enum.auto()  # one by one: what the caller may not see is as what is missing
    URLS = enum.auto()  # to GET, what the caller may read; to PUT, what the caller is writing
    KEY = enum.auto()  # the caller's own, or any for an administrator of the server
    USER = enum.auto()  # the caller, or any for an administrator of the server
    AUDIT = enum.auto()  # the entity or project, or the server for its administrators


class Unseen(enum.Enum):
    """What is answered when the caller may not see it, or it is not there."""

    NOT_FOUND = enum.auto()
    OVER = enum.auto()
    NOTHING = enum.auto()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """`scope` None: any valid key. `role` None: the target alone decides.

    `is_audited`: it changes names, rights or existence, and is written to the audit log.
    `keeps_answer`: an Idempotency-Key gives the first answer again; only for writes (what is asked is to be
    answered as it is now), and never for answers with secrets, which signed URLs are.
    """

    target: Target
    scope: Scope | None = None
    role: Role | None = None
    unseen: Unseen = Unseen.NOT_FOUND
    is_audited: bool = False
    keeps_answer: bool = True


def _reading(target: Target, unseen: Unseen = Unseen.NOT_FOUND) -> Policy:
    return Policy(
        target=target, scope=Scope.READ, role=Role.VIEWER, unseen=unseen, keeps_answer=False
    )


def _writing(
    target: Target,
    unseen: Unseen = Unseen.NOT_FOUND,
    *,
    is_audited: bool = False,
    keeps_answer: bool = True,
) -> Policy:
    return Policy(
        target=target,
        scope=Scope.WRITE,
        role=Role.WRITER,
        unseen=unseen,
        is_audited=is_audited,
        keeps_answer=keeps_answer,
    )


def _aliasing(target: Target) -> Policy:
    """Protected aliases need a maintainer: `access` looks at the alias."""
    return Policy(target=target, scope=Scope.ALIAS, role=Role.WRITER, is_audited=True)


def _deleting(target: Target) -> Policy:
    return Policy(target=target, scope=Scope.DELETE, role=Role.MAINTAINER, is_audited=True)


def _maintaining(target: Target) -> Policy:
    return Policy(target=target, scope=Scope.ADMIN, role=Role.MAINTAINER, is_audited=True)


def _governing(target: Target) -> Policy:
    return Policy(target=target, scope=Scope.ADMIN, role=Role.ADMIN, is_audited=True)


def _serving(*, is_audited: bool = True) -> Policy:
    return Policy(target=Target.SERVER, scope=Scope.ADMIN, is_audited=is_audited)


POLICIES: dict[str, Policy] = {
    "about_me": Policy(target=Target.ANYBODY),
    "batch": Policy(target=Target.ANYBODY, keeps_answer=False),  # each call by its own
    # runs and lineage
    "create_run": _writing(Target.NEW_RUN),
    "get_run": _reading(Target.RUN),
    "finish_run": _writing(Target.RUN),
    "record_use": _writing(Target.RUN),  # and the version has to be readable
    "run_inputs": _reading(Target.RUN),
    "run_outputs": _reading(Target.RUN),
    "used_by": _reading(Target.VERSION),
    "logged_by": _reading(Target.VERSION),
    # sessions and uploads
    "begin_session": _writing(Target.NEW_SESSION),
    "renew_session": _writing(Target.SESSION, Unseen.OVER),
    "end_session": _writing(Target.SESSION, Unseen.NOTHING),
    "stored_contents": _writing(Target.SESSION, Unseen.OVER, keeps_answer=False),
    "stored_chunks": _writing(Target.SESSION, Unseen.OVER, keeps_answer=False),
    "register_upload": _writing(Target.SESSION, Unseen.OVER, keeps_answer=False),
    "adopt_upload": _writing(Target.SESSION, Unseen.OVER),
    "note_parts": _writing(Target.SESSION_UPLOAD),
    "forget_upload": _writing(Target.UPLOAD, Unseen.NOTHING),
    "add_stored": _writing(Target.SESSION, Unseen.OVER),
    "commit_version": _writing(Target.COMMIT, Unseen.OVER, is_audited=True),
    # versions
    "find_version": _reading(Target.COLLECTION, Unseen.NOTHING),
    "resolve": _reading(Target.COLLECTION),
    "list_versions": _reading(Target.COLLECTION),
    "list_collections": _reading(Target.LISTING, Unseen.NOTHING),
    "get_version": _reading(Target.VERSION),
    "update_version": _writing(
        Target.VERSION, is_audited=True
    ),  # `access` looks at what is changed
    "set_alias": _aliasing(Target.VERSION),
    "remove_alias": _aliasing(Target.COLLECTION),
    "delete_version": _deleting(Target.VERSION),
    "delete_collection": _deleting(Target.COLLECTION),
    "prune_versions": _deleting(Target.COLLECTION),
    "collect_garbage": Policy(target=Target.SERVER, scope=Scope.DELETE, is_audited=True),
    # bytes
    "object_sizes": Policy(target=Target.OBJECTS, scope=Scope.READ, keeps_answer=False),
    "sign_urls": Policy(target=Target.URLS, keeps_answer=False),  # read to GET, write to PUT
    "mark_damaged": Policy(target=Target.OBJECTS, scope=Scope.READ, is_audited=True),
    "delete_objects": Policy(target=Target.OBJECTS, scope=Scope.WRITE),
    "begin_object_upload": _writing(Target.UPLOAD),
    "resume_object_upload": _writing(Target.UPLOAD),
    "complete_object_upload": _writing(Target.UPLOAD),
    "abort_object_upload": _writing(Target.UPLOAD, Unseen.NOTHING),
    # administration
    "list_users": _serving(is_audited=False),
    "create_user": _serving(),
    "update_user": _serving(),
    "list_teams": Policy(target=Target.ANYBODY, scope=Scope.READ),
    "create_team": _serving(),
    "list_members": _reading(Target.ENTITY),
    "set_member": _governing(Target.ENTITY),
    "remove_member": _governing(Target.ENTITY),
    "list_project_roles": _reading(Target.PROJECT),
    "set_project_role": _governing(Target.PROJECT),
    "remove_project_role": _governing(Target.PROJECT),
    "list_keys": Policy(target=Target.USER, scope=Scope.READ),
    "create_key": Policy(
        target=Target.USER, scope=Scope.ADMIN, is_audited=True, keeps_answer=False
    ),
    "revoke_key": Policy(target=Target.KEY, is_audited=True),  # a key may always revoke itself
    "list_protected_aliases": _reading(Target.PROJECT),
    "protect_alias": _maintaining(Target.PROJECT),
    "unprotect_alias": _maintaining(Target.PROJECT),
    "list_audit": Policy(target=Target.AUDIT, scope=Scope.ADMIN, role=Role.ADMIN),
}
