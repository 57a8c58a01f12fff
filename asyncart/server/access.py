"""May this principal do that? Answered for the row that the request leads to, in one read transaction.

What a request says about owners is not believed: an id is looked up first, and the entity and project of
its row decide. Decisions are plain functions over a connection; nothing is cached here, so a role that
was taken away is gone with the next request.

Bytes are granted per object: whoever may read one live version that holds an object may read the whole
object, also the other files that were packed into it. To name a digest gives nothing: what is stored is
offered only from objects that the caller may read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import msgspec
from sqlalchemy.engine import Connection

from .. import wire
from ..catalog import accounts, ownership, sessions
from ..catalog.tables import WRITING
from ..catalog.transactions import Database
from ..errors import AsyncartError, Conflict, Denied, NotFound
from ..names import LATEST
from ..wire import Role, Scope
from .absent import Absent
from .policy import Policy, Principal, Target, Unseen


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """What the request leads to. `role` is the caller's there; `subject` is its name, for the audit log.

    `object_ids`: those objects of the request that the caller may touch (`Target.OBJECTS`).
    `projects`: the only ones of the entity that the caller may see; None: all (`Target.LISTING`).
    """

    entity: str | None = None
    project: str | None = None
    role: Role | None = None
    object_ids: frozenset[str] = frozenset()
    projects: frozenset[str] | None = None
    subject: str = ""


class Placed(Protocol):
    """A run or a version, as a value."""

    @property
    def entity(self) -> str: ...
    @property
    def project(self) -> str: ...


T = TypeVar("T", bound=Placed)


class Access:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self, principal: Principal, policy: Policy, request: wire.Request) -> Resource:
        """What the request leads to. Raises Denied; or, for what the caller may not see, what the policy
        says: NotFound, Conflict or Absent."""
        check_scope(principal, policy.scope)
        if policy.target is Target.ANYBODY:
            return Resource()
        return await self._database.read(resolve, principal, policy, request)

    async def only_readable(self, principal: Principal, found: Sequence[T]) -> list[T]:
        """Those that lie in projects that the caller may read, in their order."""
        if not found:
            return []
        return await self._database.read(_only_readable, principal, found)


# rights


class Rights(NamedTuple):
    """What one principal may do in one entity."""

    in_entity: Role | None
    in_projects: Mapping[str, Role]
    bound_to: str | None = None  # the only project that the key may be used for

    def in_project(self, project: str) -> Role | None:
        if self.bound_to is not None and project != self.bound_to:
            return None
        return _higher(self.in_entity, self.in_projects.get(project))

    def in_whole_entity(self) -> Role | None:
        return None if self.bound_to is not None else self.in_entity

    def anywhere(self) -> Role | None:
        """The highest one in the entity or in any project of it."""
        if self.bound_to is not None:
            return self.in_project(self.bound_to)
        highest = self.in_entity
        for role in self.in_projects.values():
            highest = _higher(highest, role)
        return highest

    def readable_projects(self) -> frozenset[str] | None:
        """None: all of the entity."""
        if self.bound_to is not None:
            is_seen = self.in_project(self.bound_to) is not None
            return frozenset({self.bound_to} if is_seen else ())
        return None if self.in_entity is not None else frozenset(self.in_projects)


NO_RIGHTS = Rights(None, {})


def rights(conn: Connection, principal: Principal, entity: str) -> Rights:
    bound = principal.project
    if bound is not None and bound[0] != entity:
        return NO_RIGHTS
    only = None if bound is None else bound[1]
    if principal.is_admin or principal.user == entity:
        return Rights(Role.ADMIN, {}, only)
    granted = accounts.grants(conn, principal.user_id, entity)
    return Rights(granted.in_entity, granted.in_projects, only)


def _higher(one: Role | None, other: Role | None) -> Role | None:
    if one is None or other is None:
        return one or other
    return one if one.covers(other) else other


def check_scope(principal: Principal, scope: Scope | None) -> None:
    if scope is not None and scope not in principal.scopes:
        raise Denied(
            f"API key {principal.key_id} has not the scope '{scope.value}' that this needs; "
            f"use a key that has it"
        )


# following a request to what decides


class _Question(NamedTuple):
    conn: Connection
    principal: Principal
    policy: Policy
    request: Any  # of the type that belongs to the policy's target

    def rights(self, entity: str) -> Rights:
        return rights(self.conn, self.principal, entity)


def resolve(
    conn: Connection, principal: Principal, policy: Policy, request: wire.Request
) -> Resource:
    question = _Question(conn, principal, policy, request)
    resource = _RESOLVERS[policy.target](question)
    if policy.role is not None:
        _check_role(resource, policy.role)
    if (rule := _RULES.get(type(request))) is not None:
        rule(question, resource)
    return resource


def _check_role(resource: Resource, least: Role) -> None:
    if resource.role is None or not resource.role.covers(least):
        where = "/".join(filter(None, (resource.entity, resource.project)))
        held = "none" if resource.role is None else f"'{resource.role.value}'"
        raise Denied(
            f"{where}: this needs the role '{least.value}', yours is {held}; "
            f"ask an admin of {resource.entity} for it"
        )


def _unseen(question: _Question, error: AsyncartError) -> NoReturn:
    """Foreign and missing both come here, with the same error."""
    match question.policy.unseen:
        case Unseen.NOTHING:
            raise Absent(_NOTHING[type(question.request)])
        case Unseen.OVER | Unseen.NOT_FOUND:
            raise error


_NOTHING: dict[type[wire.Request], wire.Answer] = {
    wire.EndSession: wire.Done(),
    wire.ForgetUpload: wire.Done(),
    wire.AbortObjectUpload: wire.Done(),
    wire.FindVersion: wire.Found(),
    wire.ListCollections: wire.Collections(collections=[]),
}


def _in_project(question: _Question, entity: str, project: str, error: AsyncartError) -> Resource:
    role = question.rights(entity).in_project(project)
    if role is None:
        _unseen(question, error)
    return Resource(entity=entity, project=project, role=role)


def _server(question: _Question) -> Resource:
    principal = question.principal
    if not principal.is_admin or principal.project is not None:
        raise Denied("only administrators of this server may do that, with a key for all projects")
    return Resource()


def _entity(question: _Question) -> Resource:
    entity = question.request.entity
    role = question.rights(entity).in_whole_entity()
    if role is None:
        _unseen(question, NotFound(f"there is no entity '{entity}'"))
    return Resource(entity=entity, role=role)


def _listing(question: _Question) -> Resource:
    request: wire.ListCollections = question.request
    held = question.rights(request.entity)
    if request.project is not None:
        error = _no_project(request.entity, request.project)
        return _in_project(question, request.entity, request.project, error)
    role = held.anywhere()
    if role is None:
        _unseen(question, NotFound(f"there is no entity '{request.entity}'"))
    return Resource(entity=request.entity, role=role, projects=held.readable_projects())


def _project(question: _Question) -> Resource:
    entity, project = question.request.entity, question.request.project
    return _in_project(question, entity, project, _no_project(entity, project))


def _no_project(entity: str, project: str) -> NotFound:
    return NotFound(f"there is no project {entity}/{project}")


def _collection(question: _Question) -> Resource:
    request = question.request
    error = NotFound(  # what the catalog says of an empty project
        f"{request.entity}/{request.project} has no artifact '{request.collection}'; it has none"
    )
    return _in_project(question, request.entity, request.project, error)


def _new_run(question: _Question) -> Resource:
    run = question.request.run
    resource = _in_project(question, run.entity, run.project, _no_project(run.entity, run.project))
    there = ownership.of_run(question.conn, run.id)
    if there is not None and there != (run.entity, run.project):
        raise Conflict(f"run {run.id} exists in another project; choose another run id")
    return resource


def _run(question: _Question) -> Resource:
    return _of_run(question, question.request.run_id)


def _of_run(question: _Question, run_id: str) -> Resource:
    error = NotFound(f"there is no run {run_id}")
    place = ownership.of_run(question.conn, run_id)
    if place is None:
        _unseen(question, error)
    return _in_project(question, place.entity, place.project, error)


def _version(question: _Question) -> Resource:
    return _of_version(question, question.request.version_id)


def _of_version(question: _Question, version_id: str) -> Resource:
    error = NotFound(f"there is no version with id {version_id}")
    place = ownership.of_version(question.conn, version_id)
    if place is None:
        _unseen(question, error)
    resource = _in_project(question, place.entity, place.project, error)
    return msgspec.structs.replace(resource, subject=f"{place.collection}:v{place.number}")


def _new_session(question: _Question) -> Resource:
    request: wire.BeginSession = question.request
    if request.project is None:
        role = question.rights(request.entity).anywhere()
        if role is None:
            _unseen(question, NotFound(f"there is no entity '{request.entity}'"))
        return Resource(entity=request.entity, role=role)
    error = _no_project(request.entity, request.project)
    return _in_project(question, request.entity, request.project, error)


def _session(question: _Question) -> Resource:
    session_id = question.request.session_id
    place = ownership.of_session(question.conn, session_id)
    if place is None or place.principal != question.principal.user_id:
        _unseen(question, sessions.over(session_id))
    return _in_session(question, place.entity, place.project, sessions.over(session_id))


def _in_session(
    question: _Question, entity: str, project: str | None, error: AsyncartError
) -> Resource:
    role = _role_in(question.rights(entity), project)
    if role is None:
        _unseen(question, error)
    return Resource(entity=entity, project=project, role=role)


def _commit(question: _Question) -> Resource:
    """The session is the caller's own; what decides is where the version will be."""
    request: wire.CommitVersion = question.request
    _session(question)
    error = NotFound(f"there is no project {request.entity}/{request.project}")
    return _in_project(question, request.entity, request.project, error)


def _session_upload(question: _Question) -> Resource:
    resource = _upload(question)
    place = ownership.of_session(question.conn, question.request.session_id)
    if place is None or place.principal != question.principal.user_id:
        raise sessions.over(question.request.session_id)
    return resource


def _upload(question: _Question) -> Resource:
    return _of_upload(question, question.request.object_id)


def _of_upload(question: _Question, object_id: str) -> Resource:
    error = _no_upload(object_id)
    own = ownership.own_objects(question.conn, question.principal.user_id, [object_id])
    if (there := own.get(object_id)) is None:
        _unseen(question, error)
    return _in_session(question, there.entity, there.project, error)


def _no_upload(object_id: str) -> NotFound:
    return NotFound(f"there is no upload of object {object_id}: it was given up meanwhile")


def _objects(question: _Question) -> Resource:
    """Those that may not be seen are as those that are not there, one by one."""
    request, principal = question.request, question.principal
    if isinstance(request, wire.DeleteObjects):
        found = frozenset(_writable(question, request.object_ids))
    else:
        found = readable_objects(question.conn, principal, request.object_ids)
    return Resource(object_ids=found)


def _urls(question: _Question) -> Resource:
    request: wire.SignUrls = question.request
    to_get = {want.object_id for want in request.wanted if want.method is wire.UrlMethod.GET}
    to_put = {want.object_id for want in request.wanted if want.method is wire.UrlMethod.PUT}
    if to_get:
        check_scope(question.principal, Scope.READ)
        if lacking := to_get - readable_objects(question.conn, question.principal, to_get):
            raise NotFound(f"there is no object {min(lacking)}")
    if to_put:
        check_scope(question.principal, Scope.WRITE)
        if lacking := to_put - _writable(question, to_put):
            raise _no_upload(min(lacking))
    return Resource(object_ids=frozenset(to_get | to_put))


def _writable(question: _Question, object_ids: Collection[str]) -> set[str]:
    """Those that a session of the caller is writing, and that the caller may still write."""
    own = ownership.own_objects(question.conn, question.principal.user_id, object_ids)
    writable = set()
    for object_id, there in own.items():
        role = _role_in(question.rights(there.entity), there.project)
        if there.state == WRITING and role is not None and role.covers(Role.WRITER):
            writable.add(object_id)
    return writable


def _role_in(held: Rights, project: str | None) -> Role | None:
    """In a session. That of a key for one project has this project; who has another key may use any."""
    if project is None and held.bound_to is not None:
        return None
    return held.anywhere() if project is None else held.in_project(project)


def _key(question: _Question) -> Resource:
    key_id, principal = question.request.key_id, question.principal
    owner = ownership.of_key(question.conn, key_id)
    is_own = owner == principal.user_id
    if key_id == principal.key_id:
        return Resource()  # to revoke itself, a key needs no scope
    if owner is None or not (is_own or principal.is_admin) or principal.project is not None:
        raise NotFound(f"there is no API key {key_id}")
    check_scope(principal, Scope.ADMIN)
    return Resource()


def _of_user(question: _Question) -> Resource:
    principal, user = question.principal, question.request.user
    if user is None or user == principal.user:
        return Resource()
    if not principal.is_admin or principal.project is not None:
        raise accounts.no_user(user)
    return Resource()


def _audit(question: _Question) -> Resource:
    request: wire.ListAudit = question.request
    if request.entity is not None and request.project is not None:
        return _project(question)
    if request.entity is not None:
        return _entity(question)
    _server(question)
    return Resource(role=Role.ADMIN)


_RESOLVERS: dict[Target, Callable[[_Question], Resource]] = {
    Target.ANYBODY: lambda question: Resource(),
    Target.SERVER: _server,
    Target.ENTITY: _entity,
    Target.LISTING: _listing,
    Target.PROJECT: _project,
    Target.COLLECTION: _collection,
    Target.NEW_RUN: _new_run,
    Target.RUN: _run,
    Target.VERSION: _version,
    Target.NEW_SESSION: _new_session,
    Target.SESSION: _session,
    Target.COMMIT: _commit,
    Target.SESSION_UPLOAD: _session_upload,
    Target.UPLOAD: _upload,
    Target.OBJECTS: _objects,
    Target.URLS: _urls,
    Target.KEY: _key,
    Target.USER: _of_user,
    Target.AUDIT: _audit,
}


# what else a request asks for, beside its target


def _record_use_rule(question: _Question, resource: Resource) -> None:
    request: wire.RecordUse = question.request
    _check_role(_of_version(question, request.version_id), Role.VIEWER)


def _commit_rule(question: _Question, resource: Resource) -> None:
    """Nothing foreign may come into the version: no run, nobody else's draft. Its objects are checked
    where they are committed, in that transaction (`catalog.grants`)."""
    request: wire.CommitVersion = question.request
    named = (request.entity, request.project, request.collection)
    there = ownership.of_draft(question.conn, request.draft_id)
    if there is not None:
        if there != named:
            raise Conflict(
                f"draft {request.draft_id} was committed elsewhere; take a fresh draft id"
            )
        return  # it is the answer that is asked for again
    if request.run_id is not None:
        _check_role(_of_run_seen(question, request.run_id), Role.WRITER)
    _check_aliases(question, resource, request.collection, {*request.aliases} - {LATEST})


def _of_run_seen(question: _Question, run_id: str) -> Resource:
    place = ownership.of_run(question.conn, run_id)
    role = None if place is None else question.rights(place.entity).in_project(place.project)
    if place is None or role is None:
        raise NotFound(f"there is no run {run_id}")
    return Resource(entity=place.entity, project=place.project, role=role)


def _update_rule(question: _Question, resource: Resource) -> None:
    """A time to live deletes what is there, only later: it needs what deleting needs. To let a version live
    for ever needs no more than logging it again without one. (Nor does logging with one: of a version that
    is there, the longer time wins.)"""
    request: wire.UpdateVersion = question.request
    if request.ttl_s is not None and request.ttl_s is not msgspec.UNSET:
        check_scope(question.principal, Scope.DELETE)
        _check_role(resource, Role.MAINTAINER)
    place = ownership.of_version(question.conn, request.version_id)
    assert place is not None  # it was resolved in this transaction
    changed = {*(request.add_aliases or ()), *(request.remove_aliases or ())} - {LATEST}
    _check_aliases(question, resource, place.collection, changed)


def _set_alias_rule(question: _Question, resource: Resource) -> None:
    request: wire.SetAlias = question.request
    place = ownership.of_version(question.conn, request.version_id)
    assert place is not None
    _check_aliases(question, resource, place.collection, {request.alias} - {LATEST})


def _remove_alias_rule(question: _Question, resource: Resource) -> None:
    request: wire.RemoveAlias = question.request
    _check_aliases(question, resource, request.collection, {request.alias} - {LATEST})


def _check_aliases(
    question: _Question, resource: Resource, collection: str, moved: Iterable[str]
) -> None:
    """Moving any alias but `latest` needs the scope; a protected one, a maintainer."""
    moved = sorted(moved)
    if not moved:
        return
    check_scope(question.principal, Scope.ALIAS)
    assert resource.entity is not None
    assert resource.project is not None
    if resource.role is not None and resource.role.covers(Role.MAINTAINER):
        return
    patterns = accounts.list_protected_aliases(
        question.conn, resource.entity, resource.project, collection
    )
    for alias in moved:
        if any(fnmatchcase(alias, each.pattern) for each in patterns):
            raise Denied(
                f"{resource.project}/{collection}:{alias} is a protected alias: moving or removing it "
                f"needs the role 'maintainer'"
            )


_RULES: dict[type[wire.Request], Callable[[_Question, Resource], None]] = {
    wire.RecordUse: _record_use_rule,
    wire.CommitVersion: _commit_rule,
    wire.UpdateVersion: _update_rule,
    wire.SetAlias: _set_alias_rule,
    wire.RemoveAlias: _remove_alias_rule,
}


# objects and lists


def readable_objects(
    conn: Connection, principal: Principal, object_ids: Collection[str]
) -> frozenset[str]:
    """Those of the objects whose bytes the caller may have: a live version in a project that the caller
    may read holds them, or a session of the caller wrote them."""
    if not object_ids:
        return frozenset()
    held: dict[str, Rights] = {}

    def rights_in(entity: str) -> Rights:
        if entity not in held:
            held[entity] = rights(conn, principal, entity)
        return held[entity]

    own = ownership.own_objects(conn, principal.user_id, object_ids)
    found = {
        object_id
        for object_id, there in own.items()
        if _role_in(rights_in(there.entity), there.project) is not None
    }
    by_entity: dict[str, set[str]] = {}
    for object_id, entity in ownership.entities_of(conn, set(object_ids) - found).items():
        by_entity.setdefault(entity, set()).add(object_id)
    for entity, names in by_entity.items():
        if rights_in(entity).anywhere() is not None:
            found |= ownership.held_objects(conn, names, rights_in(entity).readable_projects())
    return frozenset(found)


def _only_readable(conn: Connection, principal: Principal, found: Sequence[T]) -> list[T]:
    held = {entity: rights(conn, principal, entity) for entity in {each.entity for each in found}}
    return [each for each in found if held[each.entity].in_project(each.project) is not None]
