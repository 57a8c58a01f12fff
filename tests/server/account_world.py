"""A server's world for tests: users with every kind of key, and the same things in every kind of place.

`build` fills a catalog; `World` says what is where. Places are what a request can be about, seen from its
caller: the entity of their own, a project of their team, another one of that team, somebody else's, and one
that does not exist.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from blake3 import blake3
from material import fresh_object
from sqlalchemy import update
from sqlalchemy.engine import Connection

from asyncart.apikey import parse_key
from asyncart.catalog import accounts, grants, keys, open_catalog
from asyncart.catalog.protocol import CollectionName, Draft, StoredObject
from asyncart.catalog.sql import SqlCatalog
from asyncart.catalog.tables import api_keys
from asyncart.catalog.transactions import Database
from asyncart.errors import AsyncartError
from asyncart.model import Content, Extent, ManifestLocation, RunInfo, RunState
from asyncart.net import answers
from asyncart.server.accounts import Accounts
from asyncart.server.app import make_app
from asyncart.server.context import ServerContext, ServerSettings
from asyncart.server.policy import Principal
from asyncart.stores.local import LocalStore
from asyncart.wire import Request, Role, Scope

COLLECTION = "bike-data"
DIGEST = blake3(b"bikes").digest()
ALL = tuple(Scope)
RELATIONS = ("own", "team", "other", "foreign", "missing")
NOWHERE = ("nowhere", "void")


class Bearer(NamedTuple):
    """One key. `roles` are those of its user in the team and in its two projects, as granted."""

    user: str
    key: str | None
    scopes: frozenset[Scope]
    is_valid: bool = True
    is_admin: bool = False
    bound_to: tuple[str, str] | None = None
    team: Role | None = None
    project: Role | None = None  # in the first project only


class Place(NamedTuple):
    """What lies in one project."""

    entity: str
    project: str
    run_id: str
    version_id: str
    object_id: str  # stored, held by the version
    key_id: str  # of somebody who owns this place
    user: str  # the same one


class Desk(NamedTuple):
    """Where a user works in one project: a session of their own, with an object on its way."""

    session_id: str
    object_id: str


class World(NamedTuple):
    bearers: dict[str, Bearer]
    places: dict[str, Place]  # by entity/project
    desks: dict[str, Desk]  # by user/entity/project

    def place(self, bearer: Bearer, relation: str) -> Place:
        entity, project = {
            "own": (bearer.user, "stuff"),
            "team": ("team", "proj"),
            "other": ("team", "other"),
            "foreign": ("strangers", "vault"),
            "missing": NOWHERE,
        }[relation]
        return self.places[f"{entity}/{project}"]

    def desk(self, bearer: Bearer, place: Place) -> Desk:
        """That of the caller; in a foreign or missing place, that of whoever is there."""
        mine = self.desks.get(f"{bearer.user}/{place.entity}/{place.project}")
        return mine or self.desks[f"{place.user}/{place.entity}/{place.project}"]

    def role(self, bearer: Bearer, relation: str) -> Role | None:
        """The rules of roles, written down a second time."""
        place = self.place(bearer, relation)
        if bearer.bound_to is not None and bearer.bound_to != (place.entity, place.project):
            return None
        if bearer.is_admin or relation == "own":
            return Role.ADMIN
        granted = {
            "team": [bearer.team, bearer.project],
            "other": [bearer.team],
            "foreign": [],
            "missing": [],
        }[relation]
        return max(filter(None, granted), key=list(Role).index, default=None)

    def role_in_entity(self, bearer: Bearer, relation: str) -> Role | None:
        if bearer.bound_to is not None:
            return None
        if relation in ("team", "other") and not bearer.is_admin:
            return bearer.team
        return self.role(bearer, relation)


async def build(url: str) -> World:
    """Everything, in a new catalog."""
    catalog = await open_catalog(url)
    assert isinstance(catalog, SqlCatalog)
    try:
        return await _Builder(catalog).build()
    finally:
        await catalog.aclose()


MEMBERS = {
    "vic": Role.VIEWER,
    "wil": Role.WRITER,
    "max": Role.MAINTAINER,
    "ada": Role.ADMIN,
}


class _Builder:
    def __init__(self, catalog: SqlCatalog) -> None:
        self.catalog = catalog
        self.database = catalog.database
        self.accounts = Accounts(catalog.database, secret="a secret for tests only, 32 characters")
        self.ids: dict[str, int] = {}
        self.root = Principal(
            user_id=0, user="root", key_id="", scopes=frozenset(Scope), is_admin=True
        )

    async def build(self) -> World:
        await self.people()
        places = {}
        for user in [*self.ids]:
            place = await self.place(user, "stuff", user)
            places[f"{user}/stuff"] = place
        for entity, project, owner in (
            ("team", "proj", "owner"),
            ("team", "other", "owner"),
            ("strangers", "vault", "strange"),
        ):
            places[f"{entity}/{project}"] = await self.place(entity, project, owner)
        places["/".join(NOWHERE)] = self.missing()
        desks = {
            f"{user}/{place.entity}/{place.project}": await self.desk(user, place)
            for place in places.values()
            for user in self.ids
            if place.entity in (user, "team") or place.user == user
        }
        desks[f"nobody-here/{'/'.join(NOWHERE)}"] = Desk(uuid4().hex, fresh_object())
        world = World(await self.bearers(), places, desks)
        await self.database.write(_used_today)
        return world

    async def people(self) -> None:
        write = self.database.write
        users = [*MEMBERS, "gus", "owner", "strange", "root"]
        for user in users:
            await write(accounts.create_user, user, is_admin=user == "root")
        for team in ("team", "strangers"):
            await write(accounts.create_team, team)
        for user, role in MEMBERS.items():
            await write(accounts.set_member, "team", user, role)
        await write(accounts.set_member, "team", "owner", Role.ADMIN)
        await write(accounts.set_member, "strangers", "strange", Role.ADMIN)
        await write(accounts.set_project_role, "team", "proj", "gus", Role.WRITER)
        self.ids = {user: await self.database.read(_user_id, user) for user in users}

    async def key(self, user: str, scopes: tuple[Scope, ...] = ALL, **more: Any) -> str:
        values = {"name": "", "project": None, "expires_in_s": None} | more
        made = await self.accounts.create_key(self.root, user=user, scopes=scopes, **values)
        return made.text

    async def bearers(self) -> dict[str, Bearer]:
        everything = frozenset(ALL)

        async def member(user: str) -> Bearer:
            return Bearer(user, await self.key(user), everything, team=MEMBERS[user])

        revoked, expired = await self.key("ada"), await self.key("ada", expires_in_s=60.0)
        await self.accounts.revoke_key(parse_key(revoked).id)
        await self.database.write(_expire, parse_key(expired).id)
        bound = ("team", "proj")
        reading, writing = (Scope.READ,), (Scope.WRITE,)
        return {
            "nobody": Bearer("ada", None, everything, is_valid=False, team=Role.ADMIN),
            "revoked": Bearer("ada", revoked, everything, is_valid=False, team=Role.ADMIN),
            "expired": Bearer("ada", expired, everything, is_valid=False, team=Role.ADMIN),
            "viewer": await member("vic"),
            "writer": await member("wil"),
            "maintainer": await member("max"),
            "entity admin": await member("ada"),
            "server admin": Bearer("root", await self.key("root"), everything, is_admin=True),
            "guest of one project": Bearer(
                "gus", await self.key("gus"), everything, project=Role.WRITER
            ),
            "reading key of an entity admin": Bearer(
                "ada", await self.key("ada", reading), frozenset(reading), team=Role.ADMIN
            ),
            "writing key of an entity admin": Bearer(
                "ada", await self.key("ada", writing), frozenset(writing), team=Role.ADMIN
            ),
            "key for one project of an entity admin": Bearer(
                "ada",
                await self.key("ada", project=bound),
                everything,
                bound_to=bound,
                team=Role.ADMIN,
            ),
        }

    async def place(self, entity: str, project: str, owner: str) -> Place:
        """One run, and one version that it logged, with an alias."""
        run_id = f"run-{uuid4().hex}"
        run = RunInfo(run_id, entity, project, "a run", None, RunState.RUNNING, 1.0)
        await self.catalog.create_run(run)
        session_id = await self.begin(entity, project, owner)
        held = await self.stored(session_id)
        draft = Draft(
            uuid4().hex,
            CollectionName(entity, project, COLLECTION),
            "dataset",
            DIGEST,
            5,
            1,
            ManifestLocation(held, 5, 5, DIGEST),
            (held,),
            aliases=("stable",),
            run_id=run_id,
        )
        committed = await self.catalog.commit_version(session_id, draft)
        spare = await self.key(owner)
        return Place(
            entity, project, run_id, committed.version.id, held, parse_key(spare).id, owner
        )

    def missing(self) -> Place:
        return Place(
            *NOWHERE,
            f"run-{uuid4().hex}",
            uuid4().hex,
            fresh_object(),
            "NoSuchKey000",
            "nobody-here",
        )

    async def desk(self, user: str, place: Place) -> Desk:
        session_id = await self.begin(place.entity, place.project, user)
        object_id = fresh_object()
        await self.catalog.register_upload(session_id, object_id)
        return Desk(session_id, object_id)

    async def begin(self, entity: str, project: str, user: str) -> str:
        session_id = uuid4().hex
        await self.database.write(
            grants.begin_session, session_id, entity, project, self.ids[user], ""
        )
        return session_id

    async def stored(self, session_id: str) -> str:
        object_id = fresh_object()
        await self.catalog.register_upload(session_id, object_id)
        content = Content(DIGEST, 5, (Extent(object_id, 0, 5),))
        await self.catalog.add_stored(session_id, [StoredObject(object_id, 5)], [content])
        return object_id


def _user_id(conn: Connection, user: str) -> int:
    return int(accounts.user_row(conn, user).id)


def _expire(conn: Connection, key_id: str) -> None:
    conn.execute(update(api_keys).where(api_keys.c.id == key_id).values(expires_at=1.0))


def _used_today(conn: Connection) -> None:
    """So that looking a key up writes nothing."""
    from asyncart.catalog import clock

    conn.execute(update(api_keys).values(used_on=keys.today(clock.now(conn))))


class Rehearsal:
    """A database whose writes really happen, and are taken back before anybody sees them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.name = database.name
        self.owner_is_process = False
        self.writes = 0  # those that succeeded

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._database.read(work, *args, **kwargs)

    async def write(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        result = await self._database.write(_taken_back, work, *args, **kwargs)
        self.writes += 1
        return result

    write_alone = write

    async def aclose(self) -> None:
        await self._database.aclose()


def _taken_back(conn: Connection, work: Any, *args: Any, **kwargs: Any) -> Any:
    savepoint = conn.begin_nested()
    try:
        return work(conn, *args, **kwargs)
    finally:
        savepoint.rollback()


class Talk:
    """Requests to one server, as some bearer."""

    def __init__(self, server: TestServer, http: ClientSession, context: ServerContext) -> None:
        self._server = server
        self._http = http
        self.context = context

    async def ask(
        self, key: str | None, name: str, request: Request, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        target = answers.target(name, request)
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        if target.body is not None:
            headers["Content-Type"] = "application/json"
        url = f"{self._server.make_url('')}".rstrip("/") + target.path
        from yarl import URL

        async with self._http.request(
            target.method, URL(url, encoded=True), data=target.body, headers=headers
        ) as reply:
            return reply.status, dict(reply.headers), await reply.read()

    async def call(self, key: str | None, name: str, request: Request, **headers: str) -> Any:
        """The answer, or the error that the client would raise."""
        status, found, body = await self.ask(key, name, request, **headers)
        lowered = {header.lower(): value for header, value in found.items()}
        reply = answers.Reply(status, lowered, body)
        if status >= 400:
            error = answers.failed("http://server", name, reply).error
            error.status = status  # type: ignore[attr-defined]
            raise error
        return answers.answer("http://server", name, reply)


@asynccontextmanager
async def talking(
    catalog: SqlCatalog, folder: Path, database: Database | None = None, **more: Any
) -> AsyncIterator[Talk]:
    """A server with accounts on that catalog, and a client."""
    accounts_ = Accounts(
        database or catalog.database, secret="a secret for tests only, 32 characters"
    )
    context = ServerContext(
        catalog if database is None else SqlCatalog(database),
        LocalStore(str(folder)),
        settings=ServerSettings(checks_sizes=False),
        accounts=accounts_,
        **more,
    )
    server = TestServer(make_app(context))
    await server.start_server()
    try:
        async with ClientSession() as http:
            yield Talk(server, http, context)
    finally:
        await server.close()


def status_of(error: AsyncartError) -> int:
    return int(error.status)  # type: ignore[attr-defined]
