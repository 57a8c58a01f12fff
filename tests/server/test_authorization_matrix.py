"""Every route, for every kind of key, about every kind of place: what its policy declares, and nothing else.

Requests are made from the routes' own structs, and expectations from the policies, so that a route that is
added is tested at once. All requests are real ones to one server, whose writes are taken back.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from account_world import (
    COLLECTION,
    DIGEST,
    RELATIONS,
    Bearer,
    Place,
    Rehearsal,
    World,
    build,
    talking,
)

from asyncart import wire
from asyncart.apikey import parse_key
from asyncart.catalog import open_catalog
from asyncart.catalog.sql import SqlCatalog
from asyncart.model import RunInfo, RunState, UploadPart
from asyncart.server.policy import POLICIES, Policy, Target, Unseen
from asyncart.wire import ROUTES, Role, Scope, UrlMethod

BEARERS = (
    "nobody",
    "revoked",
    "expired",
    "viewer",
    "writer",
    "maintainer",
    "entity admin",
    "server admin",
    "guest of one project",
    "reading key of an entity admin",
    "writing key of an entity admin",
    "key for one project of an entity admin",
)

# A route that demands more where the request says so: the policy with which it is one.
MORE = {
    "update_version": (
        {"ttl_s": 1.0},
        msgspec.structs.replace(POLICIES["delete_version"], scope=Scope.WRITE),
        Scope.DELETE,
    ),
}

# Allowed, and then refused by what the request says, which no policy looks at.
BEYOND = {
    ("set_member", "own"): 422,  # a user's own entity has no members
    ("remove_member", "own"): 422,
}

# What the store says to whoever may complete an upload, and never began it there.
NOT_BEGUN = b"(any more); begin it anew"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    folder = tmp_path_factory.mktemp("world")
    world = asyncio.run(build(str(folder / "catalog.db")))
    return folder, pickle.loads(pickle.dumps(world))  # values only: nothing of that event loop


def request_for(name: str, world: World, bearer: Bearer, relation: str) -> wire.Request:
    """A request about that place that has every reason to succeed there."""
    place = world.place(bearer, relation)
    desk = world.desk(bearer, place)
    wanted = wire.WantedUrl(object_id=place.object_id, method=UrlMethod.GET)
    target = POLICIES[name].target
    values: dict[str, Any] = {
        "entity": place.entity,
        "project": place.project,
        "collection": COLLECTION,
        "selector": "latest",
        "alias": "stable",
        "pattern": "prod*",
        "run": RunInfo("new-run", place.entity, place.project, "n", None, RunState.RUNNING, 1.0),
        "run_id": place.run_id,
        "state": RunState.FINISHED,
        "version_id": place.version_id,
        "session_id": uuid4().hex if target is Target.NEW_SESSION else desk.session_id,
        "object_id": desk.object_id,
        "object_ids": [place.object_id],
        "objects": [wire.NewObject(object_id=desk.object_id, size=5)],
        "wanted": [wanted],
        "digests": [DIGEST],
        "digest": DIGEST,
        "contents": [],
        "parts": [UploadPart(0, 0, 5, DIGEST)],
        "resume_key": "source",
        "token": "",
        "size": 5,
        "etags": ["e"],
        "sizes": [5],
        "draft_id": uuid4().hex,
        "type": "dataset",
        "entry_count": 1,
        "user": _user(target, bearer, relation, place),
        "role": Role.VIEWER,
        "name": "newcomer",
        "scopes": [Scope.READ],
        "key_id": place.key_id,
        "calls": [],
    }
    fields = msgspec.structs.fields(ROUTES[name].request)
    said = {field.name: values[field.name] for field in fields if field.required}
    said |= {
        "begin_session": {"project": place.project},
        "delete_version": {"delete_aliases": True},
        "delete_collection": {"delete_aliases": True},
        "prune_versions": {"keep_last": 1},
        "list_audit": {"entity": place.entity},
        "list_keys": {"user": values["user"]},
        "create_key": {"user": values["user"]},
        "commit_version": {"aliases": [], "object_ids": []},
    }.get(name, {})
    if name == "delete_objects":
        said["object_ids"] = [desk.object_id]
    if name == "create_key" and bearer.bound_to is not None:
        said["entity"], said["project"] = bearer.bound_to
    return ROUTES[name].request(**said)


def _user(target: Target, bearer: Bearer, relation: str, place: Place) -> str | None:
    """Whom the request is about: for keys whoever owns the place, else somebody who is there."""
    if target is Target.USER:
        return None if relation == "own" else place.user
    return "gus"


def expected(
    name: str,
    world: World,
    bearer: Bearer,
    relation: str,
    policy: Policy,
    scope_there: Scope | None = None,
) -> int:
    """The status that the policy declares; `scope_there`: asked for where the bearer sees what it is about."""
    unseen = {Unseen.NOT_FOUND: 404, Unseen.OVER: 409, Unseen.NOTHING: 200}[policy.unseen]
    allowed = BEYOND.get((name, relation), 200)
    role = world.role(bearer, relation)
    is_there = relation != "missing"
    if not bearer.is_valid:
        return 401
    if policy.scope is not None and policy.scope not in bearer.scopes:
        return 403
    match policy.target:
        case Target.ANYBODY | Target.OBJECTS:
            return allowed
        case Target.SERVER:
            return allowed if bearer.is_admin else 403
        case Target.KEY | Target.USER:
            return _about_a_user(policy.target, bearer, relation)
        case Target.URLS if Scope.READ not in bearer.scopes:
            return 403
        case Target.URLS:
            return 404 if role is None or not is_there else allowed
        case Target.ENTITY | Target.AUDIT:
            role = world.role_in_entity(bearer, relation)
            if role is not None and not is_there and name in ("set_member", "remove_member"):
                return 422  # as in an entity that is no team
        case Target.SESSION | Target.UPLOAD | Target.SESSION_UPLOAD | Target.COMMIT:
            if relation in ("foreign", "missing"):
                return unseen  # of others, also for administrators
        case Target.RUN | Target.VERSION if not is_there:
            return unseen
    if role is None:
        return unseen
    if policy.role is not None and not role.covers(policy.role):
        return 403
    if scope_there is not None and scope_there not in bearer.scopes:
        return 403
    if policy.target is Target.COLLECTION and not is_there and policy.unseen is Unseen.NOT_FOUND:
        return 404  # an administrator is told by the catalog
    return allowed


def _about_a_user(target: Target, bearer: Bearer, relation: str) -> int:
    is_own = relation == "own"
    if bearer.bound_to is not None:
        is_bound_elsewhere = target is Target.KEY or not is_own
        return 404 if is_bound_elsewhere else 200
    if relation == "missing":
        return 404
    if not is_own and not bearer.is_admin:
        return 404
    if target is Target.KEY and Scope.ADMIN not in bearer.scopes:
        return 403
    return 200


@pytest.mark.parametrize(
    ("name", "has_more"),
    [(name, False) for name in sorted(ROUTES)] + [(name, True) for name in sorted(MORE)],
)
async def test_matrix(
    name: str,
    has_more: bool,
    built: tuple[Path, World],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The status is the declared one; a refusal changes nothing; foreign and missing look the same; and
    no secret of a key is logged or answered."""
    folder, world = built
    more, policy, scope_there = MORE[name] if has_more else ({}, POLICIES[name], None)
    caplog.set_level(logging.DEBUG)
    catalog = await open_catalog(str(folder / "catalog.db"))
    assert isinstance(catalog, SqlCatalog)
    rehearsal = Rehearsal(catalog.database)
    wrong: list[str] = []
    said = bytearray()
    async with talking(catalog, tmp_path, rehearsal) as talk:
        for kind in BEARERS:
            bearer = world.bearers[kind]
            faces: dict[str, Any] = {}
            for relation in RELATIONS:
                request = request_for(name, world, bearer, relation)
                request = msgspec.structs.replace(request, **more)
                writes = rehearsal.writes
                status, headers, body = await talk.ask(
                    bearer.key, name, request, **{"X-Request-Id": "the-same"}
                )
                if NOT_BEGUN in body:
                    status = 200  # it was allowed, and the store was asked
                want = expected(name, world, bearer, relation, policy, scope_there)
                if status != want:
                    wrong.append(f"{kind}, {relation}: {status}, not {want}: {body[:300]!r}")
                if status in (401, 403, 404) and rehearsal.writes != writes:
                    wrong.append(f"{kind}, {relation}: refused, and yet it wrote")
                if name != "create_key":
                    said += body
                faces[relation] = (
                    status,
                    _without_date(headers),
                    _neutral(body, world, bearer, relation),
                )
            if not bearer.is_admin and faces["foreign"] != faces["missing"]:
                wrong.append(f"{kind}: {faces['foreign']} is not {faces['missing']}")
    await catalog.aclose()
    assert wrong == []
    secrets = [parse_key(each.key).secret for each in world.bearers.values() if each.key]
    logged = "\n".join(map(_whole, caplog.records))
    assert len(caplog.records) > 0
    assert [secret for secret in secrets if secret in logged or secret.encode() in said] == []


def _without_date(headers: dict[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in headers.items() if name not in ("Date", "Content-Length")
    }


def _neutral(body: bytes, world: World, bearer: Bearer, relation: str) -> bytes:
    """With the names and ids of the request taken out: those differ because the requests do."""
    place = world.place(bearer, relation)
    desk = world.desk(bearer, place)
    names = [*place, *desk]
    for name in sorted(names, key=len, reverse=True):
        body = body.replace(name.encode(), b"...")
    return body


def _whole(record: logging.LogRecord) -> str:
    """Everything that any formatter could write of it."""
    return f"{record.getMessage()} {record.__dict__!r} {record.exc_text}"


def test_every_route_has_a_policy_and_every_policy_a_route() -> None:
    assert POLICIES.keys() == ROUTES.keys()


def test_a_policy_that_reads_needs_no_more_than_reading() -> None:
    """GET routes never need a scope to change something, but for the records of administration."""
    for name, route in ROUTES.items():
        if route.method == "GET" and name not in ("list_users", "list_audit"):
            assert POLICIES[name].scope in (Scope.READ, None), name


def test_what_changes_names_rights_or_existence_is_audited() -> None:
    """Whatever needs more than the scope `write`, and is not only reading, is in the audit log."""
    for name, route in ROUTES.items():
        policy = POLICIES[name]
        if route.method != "GET" and policy.scope in (Scope.ALIAS, Scope.DELETE, Scope.ADMIN):
            assert policy.is_audited, name
