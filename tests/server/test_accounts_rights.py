"""What the matrix cannot ask: bytes by digest, protected aliases, lists across projects, ids of others."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
import pytest
from account_world import (
    COLLECTION,
    DIGEST,
    Bearer,
    Place,
    Talk,
    World,
    build,
    fresh_object,
    talking,
)
from blake3 import blake3
from services import PostgresServer

from asyncart import wire
from asyncart.catalog import open_catalog
from asyncart.catalog.sql import SqlCatalog
from asyncart.errors import AsyncartError, Conflict, Denied, NotFound
from asyncart.model import Content, Extent, ManifestLocation, RunInfo, RunState
from asyncart.server.serve import sweep_work
from asyncart.wire import Scope, UrlMethod


class Scene(NamedTuple):
    talk: Talk
    world: World

    def bearer(self, kind: str) -> Bearer:
        return self.world.bearers[kind]

    async def call(self, kind: str, name: str, request: wire.Request) -> Any:
        return await self.talk.call(self.bearer(kind).key, name, request)

    def at(self, where: str) -> Place:
        return self.world.places[where]

    async def session(self, kind: str, where: str) -> str:
        place = self.at(where)
        request = wire.BeginSession(
            session_id=uuid4().hex, entity=place.entity, project=place.project
        )
        await self.call(kind, "begin_session", request)
        return request.session_id


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    """A catalog to be copied."""
    path = tmp_path_factory.mktemp("world") / "catalog.db"
    return path, asyncio.run(build(str(path)))


@pytest.fixture(scope="module")
def built_on_postgres(postgres: PostgresServer) -> Iterator[tuple[str, World]]:
    """The same as a template of databases."""
    name = f"world_{uuid4().hex}"
    postgres.execute(f"CREATE DATABASE {name}")
    yield name, asyncio.run(build(postgres.url(name)))
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgres"])
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, World]]:
    """The URL of a catalog of its own, and what is in it."""
    if request.param == "sqlite":
        path, world = request.getfixturevalue("built")
        yield str(shutil.copy(path, tmp_path / "catalog.db")), world
        return
    template, world = request.getfixturevalue("built_on_postgres")
    postgres = request.getfixturevalue("postgres")
    name = f"test_{uuid4().hex}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres.url(name), world
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def scene(copied: tuple[str, World], tmp_path: Path) -> AsyncIterator[Scene]:
    url, world = copied
    catalog = await open_catalog(url)
    assert isinstance(catalog, SqlCatalog)
    async with talking(catalog, tmp_path / "store") as talk:
        yield Scene(talk, world)
    await catalog.aclose()


def commit(place: Place, session_id: str, **more: Any) -> wire.CommitVersion:
    """By default of what is there already, which needs no objects."""
    values: dict[str, Any] = {
        "session_id": session_id,
        "draft_id": uuid4().hex,
        "entity": place.entity,
        "project": place.project,
        "collection": COLLECTION,
        "type": "dataset",
        "digest": DIGEST,
        "size": 5,
        "entry_count": 1,
    }
    return wire.CommitVersion(**values | more)


# bytes


NEW = blake3(b"new").digest()


async def is_offered(scene: Scene, kind: str, session_id: str) -> bool:
    request = wire.StoredContents(session_id=session_id, digests=[NEW])
    return bool((await scene.call(kind, "stored_contents", request)).contents)


async def test_a_digest_is_offered_to_whoever_may_read_it_there(scene) -> None:
    """Before the commit to whoever uploaded it; after it to whoever may read that project, and no longer
    than the version lives."""
    guest, bound = "guest of one project", "key for one project of an entity admin"
    sessions = {kind: await scene.session(kind, "team/proj") for kind in (guest, bound)}
    for kind in ("writer", "maintainer", "entity admin"):
        sessions[kind] = await scene.session(kind, "team/other")

    async def offered() -> set[str]:
        return {kind for kind, mine in sessions.items() if await is_offered(scene, kind, mine)}

    object_id = fresh_object()
    register = wire.RegisterUpload(session_id=sessions["writer"], object_id=object_id)
    await scene.call("writer", "register_upload", register)
    content = Content(NEW, 3, (Extent(object_id, 0, 3),))
    add = wire.AddStored(
        session_id=sessions["writer"],
        objects=[wire.NewObject(object_id=object_id, size=3)],
        contents=[content],
    )
    await scene.call("writer", "add_stored", add)
    assert await offered() == {"writer"}
    manifest = ManifestLocation(object_id, 3, 3, NEW)
    request = commit(scene.at("team/other"), sessions["writer"], digest=NEW, manifest=manifest)
    version = (await scene.call("writer", "commit_version", request)).version
    assert await offered() == {"writer", "maintainer", "entity admin"}
    await scene.call("maintainer", "delete_version", wire.DeleteVersion(version_id=version.id))
    assert await offered() == set()


@pytest.mark.parametrize("where", ["team/other", "strangers/vault"])
async def test_naming_an_object_gives_no_access_to_its_bytes(scene, where) -> None:
    """Neither by a commit, nor by an index entry, nor by a URL, nor by asking for its size."""
    kind, foreign = "guest of one project", scene.at(where).object_id
    place = scene.at("team/proj")
    session_id = await scene.session(kind, "team/proj")
    manifest = ManifestLocation(foreign, 5, 5, DIGEST)
    for more in ({"manifest": manifest}, {"object_ids": [foreign], "manifest": manifest}):
        request = commit(place, session_id, digest=bytes(32), **more)
        with pytest.raises(Conflict, match="not stored"):
            await scene.call(kind, "commit_version", request)
    content = Content(bytes(32), 5, (Extent(foreign, 0, 5),))
    with pytest.raises(Conflict, match="not stored"):
        await scene.call(
            kind,
            "add_stored",
            wire.AddStored(session_id=session_id, objects=[], contents=[content]),
        )
    wanted = wire.WantedUrl(object_id=foreign, method=UrlMethod.GET)
    with pytest.raises(NotFound):
        await scene.call(kind, "sign_urls", wire.SignUrls(wanted=[wanted]))
    sizes = await scene.call(kind, "object_sizes", wire.ObjectSizes(object_ids=[foreign]))
    assert sizes.sizes == {}


async def test_nobody_writes_into_anothers_upload(scene) -> None:
    """Not even with its id, a session in the same project, and more rights."""
    kind = "maintainer"
    theirs = scene.world.desk(scene.bearer("writer"), scene.at("team/proj"))
    session_id = await scene.session(kind, "team/proj")
    wanted = wire.WantedUrl(object_id=theirs.object_id, method=UrlMethod.PUT)
    refused: list[tuple[str, wire.Request]] = [
        ("sign_urls", wire.SignUrls(wanted=[wanted])),
        ("begin_object_upload", wire.BeginObjectUpload(object_id=theirs.object_id)),
        ("note_parts", wire.NoteParts(session_id=session_id, object_id=theirs.object_id, parts=[])),
        ("register_upload", wire.RegisterUpload(session_id=session_id, object_id=theirs.object_id)),
        (
            "add_stored",
            wire.AddStored(
                session_id=session_id,
                objects=[wire.NewObject(object_id=theirs.object_id, size=5)],
                contents=[],
            ),
        ),
        ("renew_session", wire.RenewSession(session_id=theirs.session_id)),
    ]
    for name, request in refused:
        with pytest.raises((NotFound, Conflict)):
            await scene.call(kind, name, request)
    # What is content with nothing says that nothing is there, and does nothing.
    await scene.call(kind, "forget_upload", wire.ForgetUpload(object_id=theirs.object_id))
    await scene.call(kind, "end_session", wire.EndSession(session_id=theirs.session_id))
    await scene.call("writer", "renew_session", wire.RenewSession(session_id=theirs.session_id))
    await scene.call(
        "writer", "sign_urls", wire.SignUrls(wanted=[wanted])
    )  # it is still the writer's


@pytest.mark.parametrize("lacking", [Scope.READ, Scope.WRITE])
async def test_each_url_needs_its_own_scope(scene, lacking) -> None:
    """Also where another one of the same object is asked for together with it."""
    scopes = [scope for scope in (Scope.READ, Scope.WRITE) if scope is not lacking]
    request = wire.CreateKey(user="wil", scopes=scopes)
    key = await scene.call("server admin", "create_key", request)
    desk = scene.world.desk(scene.bearer("writer"), scene.at("team/proj"))
    both = [
        wire.WantedUrl(object_id=desk.object_id, method=method)
        for method in (UrlMethod.GET, UrlMethod.PUT)
    ]
    for wanted in (both, both[::-1]):
        with pytest.raises(Denied, match=f"scope '{lacking.value}'"):
            await scene.talk.call(key.text, "sign_urls", wire.SignUrls(wanted=wanted))
    urls = (await scene.call("writer", "sign_urls", wire.SignUrls(wanted=both))).urls
    assert [url.method for url in urls] == [UrlMethod.GET, UrlMethod.PUT]


async def test_an_upload_is_continued_by_its_user_only(scene) -> None:
    """Whoever continues it may read it."""
    object_id = fresh_object()
    first = await scene.session("writer", "team/proj")
    registered = wire.RegisterUpload(
        session_id=first, object_id=object_id, token="t", resume_key="source"
    )
    await scene.call("writer", "register_upload", registered)
    await scene.call("writer", "end_session", wire.EndSession(session_id=first))
    for kind in ("maintainer", "entity admin", "guest of one project"):
        session_id = await scene.session(kind, "team/proj")
        request = wire.AdoptUpload(session_id=session_id, resume_key="source")
        assert (await scene.call(kind, "adopt_upload", request)).upload is None
    again = await scene.session("writer", "team/proj")
    request = wire.AdoptUpload(session_id=again, resume_key="source")
    assert (await scene.call("writer", "adopt_upload", request)).upload.object_id == object_id


# what names other people's things


async def test_a_draft_id_of_another_project_gives_no_answer(scene) -> None:
    """A repeated commit gives the first answer, but only where it was made."""
    stranger = scene.at("strangers/vault")
    session_id = await scene.session("server admin", "strangers/vault")
    first = commit(stranger, session_id)
    answer = await scene.call("server admin", "commit_version", first)
    assert (await scene.call("server admin", "commit_version", first)) == answer
    place = scene.at("team/proj")
    mine = commit(place, await scene.session("writer", "team/proj"), draft_id=first.draft_id)
    with pytest.raises(Conflict, match="fresh draft id") as caught:
        await scene.call("writer", "commit_version", mine)
    assert "vault" not in str(caught.value)


async def test_a_run_id_that_is_taken_elsewhere_tells_nothing(scene) -> None:
    run_id = scene.at("strangers/vault").run_id
    run = RunInfo(run_id, "team", "proj", "r", None, RunState.RUNNING, 1.0)
    with pytest.raises(Conflict, match="another run id") as caught:
        await scene.call("writer", "create_run", wire.CreateRun(run=run))
    assert "vault" not in str(caught.value)
    place = scene.at("team/proj")
    session_id = await scene.session("writer", "team/proj")
    with pytest.raises(NotFound, match=f"no run {run_id}"):
        await scene.call("writer", "commit_version", commit(place, session_id, run_id=run_id))


async def test_lineage_across_projects_shows_what_the_caller_may_read(scene) -> None:
    proj, other = scene.at("team/proj"), scene.at("team/other")
    use = wire.RecordUse(run_id=other.run_id, version_id=proj.version_id)
    await scene.call("writer", "record_use", use)
    used = wire.UsedBy(version_id=proj.version_id)
    assert [run.id for run in (await scene.call("viewer", "used_by", used)).runs] == [other.run_id]
    assert (await scene.call("guest of one project", "used_by", used)).runs == []
    foreign = wire.RecordUse(run_id=proj.run_id, version_id=scene.at("strangers/vault").version_id)
    with pytest.raises(NotFound, match="no version"):
        await scene.call("writer", "record_use", foreign)


async def test_lists_of_an_entity_show_the_projects_that_one_may_see(scene) -> None:
    async def projects(kind: str, entity: str = "team") -> list[str]:
        answer = await scene.call(kind, "list_collections", wire.ListCollections(entity=entity))
        return [info.project for info in answer.collections]

    assert await projects("viewer") == ["other", "proj"]
    assert await projects("guest of one project") == ["proj"]
    assert await projects("key for one project of an entity admin") == ["proj"]
    assert await projects("viewer", "strangers") == []
    assert await projects("server admin", "strangers") == ["vault"]


async def test_rights_that_are_taken_away_end_at_once(scene) -> None:
    """Also those of sessions that are under way."""
    session_id = await scene.session("writer", "team/proj")
    leave = wire.RemoveMember(entity="team", user="wil")
    await scene.call("entity admin", "remove_member", leave)
    with pytest.raises(Conflict, match="is over"):
        await scene.call("writer", "renew_session", wire.RenewSession(session_id=session_id))
    get = wire.GetVersion(version_id=scene.at("team/proj").version_id)
    with pytest.raises(NotFound):
        await scene.call("writer", "get_version", get)


# protected aliases


async def protected(scene: Scene, pattern: str, collection: str | None = None) -> None:
    request = wire.ProtectAlias(
        entity="team", project="proj", collection=collection, pattern=pattern
    )
    await scene.call("maintainer", "protect_alias", request)


async def moves(scene: Scene) -> list[tuple[str, wire.Request]]:
    """Every way to move or remove the alias `stable`."""
    place = scene.at("team/proj")
    session_id = await scene.session("writer", "team/proj")
    name = {"entity": "team", "project": "proj", "collection": COLLECTION}
    return [
        ("set_alias", wire.SetAlias(version_id=place.version_id, alias="stable")),
        ("remove_alias", wire.RemoveAlias(**name, alias="stable")),
        ("update_version", _updated(place, remove_aliases=["stable"])),
        ("commit_version", commit(place, session_id, aliases=["stable"])),
        ("update_version", _updated(place, add_aliases=["stable"])),
    ]


def _updated(place: Place, **changes: Any) -> wire.UpdateVersion:
    return wire.UpdateVersion(version_id=place.version_id, **changes)


@pytest.mark.parametrize("pattern", ["stable", "st*", "*", "stabl?"])
@pytest.mark.parametrize("collection", [None, COLLECTION])
async def test_a_protected_alias_is_moved_by_maintainers_only(scene, pattern, collection) -> None:
    await protected(scene, pattern, collection)
    for name, request in await moves(scene):
        with pytest.raises(Denied, match=f"{COLLECTION}:stable is a protected alias"):
            await scene.call("writer", name, request)
    place = scene.at("team/proj")
    ask = wire.GetVersion(version_id=place.version_id)
    assert "stable" in (await scene.call("viewer", "get_version", ask)).version.aliases
    name, request = (await moves(scene))[1]
    await scene.call("maintainer", name, request)


async def test_what_leaves_a_protected_alias_alone_is_allowed(scene) -> None:
    """Other aliases, `latest`, other artifacts and other projects."""
    await protected(scene, "st*", "another")
    for name, request in await moves(scene):
        await scene.call("writer", name, request)
    await scene.call(
        "writer",
        "set_alias",
        wire.SetAlias(version_id=scene.at("team/proj").version_id, alias="stable"),
    )
    await protected(scene, "st*")
    place = scene.at("team/proj")
    session_id = await scene.session("writer", "team/proj")
    update = _updated(place, add_aliases=["mine", "latest"], remove_aliases=["other", "latest"])
    await scene.call("writer", "update_version", update)
    ask = wire.GetVersion(version_id=place.version_id)
    held = (await scene.call("viewer", "get_version", ask)).version.aliases
    assert held == ("latest", "mine", "stable")
    await scene.call("writer", "commit_version", commit(place, session_id, aliases=["mine"]))
    await scene.call(
        "writer",
        "set_alias",
        wire.SetAlias(version_id=scene.at("team/other").version_id, alias="stable"),
    )
    remove = wire.UnprotectAlias(entity="team", project="proj", pattern="st*")
    with pytest.raises(Denied):
        await scene.call("writer", "unprotect_alias", remove)
    await scene.call("maintainer", "unprotect_alias", remove)
    await scene.call("writer", *(await moves(scene))[1])


async def test_an_alias_that_comes_meanwhile_stays(
    scene, copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer who gives up all aliases that there were gives up none that a maintainer moves here between
    the question and the change."""
    await protected(scene, "prod")
    place = scene.at("team/proj")
    catalog, beside = scene.talk.context.catalog, await open_catalog(copied[0])
    update_version = catalog.update_version

    async def late(version_id: str, **changes: Any) -> Any:
        await beside.set_alias(version_id, "prod")
        return await update_version(version_id, **changes)

    with monkeypatch.context() as patched:
        patched.setattr(catalog, "update_version", late)
        await scene.call("writer", "update_version", _updated(place, remove_aliases=["stable"]))
    ask = wire.GetVersion(version_id=place.version_id)
    held = (await scene.call("viewer", "get_version", ask)).version.aliases
    assert held == ("latest", "prod")
    await beside.aclose()
    all_of_them = _updated(place, remove_aliases=["stable", "prod"])
    with pytest.raises(Denied, match="prod is a protected alias"):
        await scene.call("writer", "update_version", all_of_them)
    await scene.call("maintainer", "update_version", all_of_them)
    entries = (await scene.call("server admin", "list_audit", wire.ListAudit())).entries
    changed = [each for each in entries if each.action == "update_version"]
    assert {(each.user, each.entity, each.subject) for each in changed} == {
        (user, "team", f"{COLLECTION}:v0") for user in ("max", "wil")
    }
    assert len(changed) == 2


async def test_latest_cannot_be_protected(scene) -> None:
    """By name it is refused, and no pattern means it: it follows what is logged."""
    with pytest.raises(AsyncartError, match="cannot be protected"):
        await protected(scene, "latest")
    await protected(scene, "*")
    place = scene.at("team/proj")
    session_id = await scene.session("writer", "team/proj")
    await scene.call("writer", "commit_version", commit(place, session_id))


async def test_moving_aliases_needs_the_scope(scene) -> None:
    """Logging does not; `latest` follows by itself."""
    key = await scene.call(
        "server admin",
        "create_key",
        wire.CreateKey(user="ada", scopes=[Scope.READ, Scope.WRITE]),
    )
    place, session_id = scene.at("team/proj"), uuid4().hex

    async def call(name: str, request: wire.Request) -> Any:
        return await scene.talk.call(key.text, name, request)

    await call(
        "begin_session", wire.BeginSession(session_id=session_id, entity="team", project="proj")
    )
    await call("commit_version", commit(place, session_id))
    await call("update_version", wire.UpdateVersion(version_id=place.version_id, description="x"))
    await call("update_version", _updated(place, add_aliases=["latest"], remove_aliases=["latest"]))
    for name, request in (
        ("commit_version", commit(place, session_id, aliases=["mine"])),
        ("update_version", _updated(place, add_aliases=["mine"])),
        ("update_version", _updated(place, remove_aliases=["stable"])),
        ("set_alias", wire.SetAlias(version_id=place.version_id, alias="mine")),
    ):
        with pytest.raises(Denied, match="scope 'alias'"):
            await call(name, request)


# what deletes needs the right to delete


async def ttl_of(scene: Scene, place: Place) -> float | None:
    ask = wire.GetVersion(version_id=place.version_id)
    return (await scene.call("viewer", "get_version", ask)).version.ttl_s


@pytest.mark.parametrize("ttl_s", [0.0, 1.0, 1e9])
async def test_a_time_to_live_needs_what_deleting_needs(scene, ttl_s) -> None:
    """Whatever else the request changes, and whoever may do that; to let it live for ever does not."""
    place = scene.at("team/proj")
    limit = wire.UpdateVersion(version_id=place.version_id, ttl_s=ttl_s)
    mixed = msgspec.structs.replace(limit, description="mine", add_aliases=["stable", "more"])
    for request in (limit, mixed):
        for kind in ("writer", "guest of one project"):
            with pytest.raises(Denied, match="'maintainer'"):
                await scene.call(kind, "update_version", request)
        with pytest.raises(Denied, match="scope 'delete'"):
            await scene.call("writing key of an entity admin", "update_version", request)
        with pytest.raises(Denied):
            await scene.call("viewer", "update_version", request)
    assert await ttl_of(scene, place) is None
    await scene.call("maintainer", "update_version", mixed)
    assert await ttl_of(scene, place) == ttl_s
    for_ever = wire.UpdateVersion(version_id=place.version_id, ttl_s=None)
    await scene.call("writer", "update_version", for_ever)
    assert await ttl_of(scene, place) is None


async def test_logging_the_same_again_never_shortens_a_life(scene) -> None:
    """A writer may log with a time to live; of what is there, the longer one counts."""
    place = scene.at("team/proj")
    session_id = await scene.session("writer", "team/proj")

    async def log(ttl_s: float | None) -> None:
        request = commit(place, session_id, ttl_s=ttl_s)
        assert not (await scene.call("writer", "commit_version", request)).is_new

    await log(0.0)
    assert await ttl_of(scene, place) is None
    limit = wire.UpdateVersion(version_id=place.version_id, ttl_s=100.0)
    await scene.call("maintainer", "update_version", limit)
    for ttl_s, left in ((50.0, 100.0), (200.0, 200.0), (1.0, 200.0), (None, None)):
        await log(ttl_s)
        assert await ttl_of(scene, place) == left


async def test_a_commit_is_in_the_audit_log_with_its_number(scene) -> None:
    place = scene.at("team/proj")
    session_id = await scene.session("writer", "team/proj")
    await scene.call("writer", "commit_version", commit(place, session_id, aliases=["mine"]))
    await scene.call(
        "writer", "set_alias", wire.SetAlias(version_id=place.version_id, alias="best")
    )
    request = wire.ListAudit(entity="team", project="proj", limit=2)
    moved, logged = (await scene.call("entity admin", "list_audit", request)).entries
    assert (moved.action, moved.subject, moved.detail["alias"]) == (
        "set_alias",
        f"{COLLECTION}:v0",
        "best",
    )
    assert (logged.action, logged.subject, logged.user) == ("commit_version", COLLECTION, "wil")
    assert (logged.detail["version"], logged.detail["is_new"]) == ("v0", False)
    assert "metadata" not in msgspec.to_builtins(logged)["detail"]


async def test_versions_that_end_by_themselves_are_in_the_audit_log(scene) -> None:
    """Whoever collects; a collection that ends none leaves no entry, and neither does a rehearsal."""
    place = scene.at("team/proj")
    session_id = await scene.session("writer", "team/proj")
    remove = wire.RemoveAlias(entity="team", project="proj", collection=COLLECTION, alias="stable")
    await scene.call("writer", "remove_alias", remove)
    update = wire.UpdateVersion(version_id=place.version_id, ttl_s=0.0)
    await scene.call("maintainer", "update_version", update)
    await scene.call("writer", "end_session", wire.EndSession(session_id=session_id))

    async def entries() -> list[wire.AuditEntry]:
        found = (await scene.call("server admin", "list_audit", wire.ListAudit())).entries
        return [entry for entry in found if entry.action == "collect_garbage"]

    rehearse = wire.CollectGarbage(dry_run=True)
    await scene.call("server admin", "collect_garbage", rehearse)
    assert await entries() == []
    for _ in range(2):
        await sweep_work(scene.talk.context)["garbage"]()
    (entry,) = await entries()
    assert (entry.user, entry.detail["expired"]) == ("asyncart", [f"team/proj/{COLLECTION}:v0"])
