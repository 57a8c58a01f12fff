"""API keys: their text, what is stored of them, and when they end."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import msgspec
import pytest
from account_world import Talk, status_of, talking
from sqlalchemy import select, text, update

from asyncart import wire
from asyncart.apikey import ApiKey, new_key, parse_key
from asyncart.catalog import accounts, bulk, idempotency, keys, open_catalog
from asyncart.catalog.sql import SqlCatalog
from asyncart.catalog.tables import api_keys, audit_log
from asyncart.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from asyncart.model import RunInfo, RunState
from asyncart.server.accounts import Accounts, ensure_admin
from asyncart.server.accounts.service import CACHE_S
from asyncart.server.failures import Unauthenticated
from asyncart.server.limits import REFUSALS_BURST, Buckets, Limits, TooMany
from asyncart.server.policy import Principal
from asyncart.server.serve import Started
from asyncart.wire import Role, Scope

SECRET = "a secret for tests only, 32 characters"
ROOT = Principal(user_id=0, user="root", key_id="", scopes=frozenset(Scope), is_admin=True)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "catalog.db")


@pytest.fixture
async def catalog(url: str) -> AsyncIterator[SqlCatalog]:
    catalog = await open_catalog(url)
    assert isinstance(catalog, SqlCatalog)
    yield catalog
    await catalog.aclose()


@pytest.fixture
async def talk(catalog: SqlCatalog, tmp_path: Path) -> AsyncIterator[Talk]:
    async with talking(catalog, tmp_path / "store") as talk:
        yield talk


async def admin_of(talk: Talk) -> str:
    assert talk.context.accounts is not None
    key = await ensure_admin(talk.context.accounts)
    assert key is not None
    return key


async def made(talk: Talk, admin: str, user: str, **more: Any) -> str:
    """A new user's key."""
    await talk.call(admin, "create_user", wire.CreateUser(name=user))
    request = wire.CreateKey(user=user, **{"scopes": list(Scope)} | more)
    answer: wire.NewKey = await talk.call(admin, "create_key", request)
    return answer.text


# the text


def test_a_key_is_read_as_it_was_written() -> None:
    key = new_key()
    assert re.fullmatch("aart_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", key.text)
    assert parse_key(key.text) == key
    assert new_key() != key


def test_any_wrong_character_is_noticed() -> None:
    """The checksum tells, without asking a server; and no message shows what was typed."""
    text_ = new_key().text
    for at, old in enumerate(text_):
        for new in "0aZ_":
            if new != old:
                with pytest.raises(Invalid) as caught:
                    parse_key(text_[:at] + new + text_[at + 1 :])
                assert text_[20:50] not in str(caught.value)
    for other in ("", "aart_", text_[:-1], f"{text_}x", f" {text_}", text_.upper()):
        with pytest.raises(Invalid):
            parse_key(other)


def test_no_repr_shows_a_secret() -> None:
    key = new_key()
    answer = wire.NewKey(
        key=wire.Key(
            id=key.id, user="u", name="", scopes=[], project=None, created_at=0.0,
            expires_at=None, revoked_at=None, used_on=None,
        ),
        text=key.text,
    )  # fmt: skip
    for shown in (repr(key), str(key), f"{key}", repr(answer), str(answer)):
        assert key.id in shown
        assert key.secret not in shown


def test_hashes_depend_on_every_part() -> None:
    key = new_key()
    mine, other = keys.hash_key(b"secret"), keys.hash_key(b"another")
    assert keys.hash_of(key, mine) == keys.hash_of(key, mine)
    different = {
        keys.hash_of(key, mine),
        keys.hash_of(key, other),
        keys.hash_of(ApiKey(key.id, new_key().secret), mine),
        keys.hash_of(ApiKey(new_key().id, key.secret), mine),
    }
    assert len(different) == 4


# authentication


async def test_what_is_stored_is_not_the_key(catalog, url) -> None:
    """Neither in a row nor anywhere in the file."""
    service = Accounts(catalog.database)
    text_ = await ensure_admin(service)
    key = parse_key(text_)
    row = await catalog.database.read(lambda conn: conn.execute(select(api_keys)).one())
    assert row.id == key.id
    assert len(row.hash) == 32
    assert key.secret not in repr(row)
    if not url.startswith("postgresql"):
        assert key.secret.encode() not in Path(url).read_bytes()
    assert (await service.authenticate(f"Bearer {text_}")).user == "admin"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer nonsense", "bearer aart_x_y_z"]
)
async def test_what_is_no_key_is_refused(catalog, header) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await Accounts(catalog.database).authenticate(header)
    assert caught.value.http_status == 401


async def test_a_right_id_with_a_wrong_secret_is_refused(catalog) -> None:
    """Also while the right one is remembered, and in the same words as for a key that never was."""
    service = Accounts(catalog.database)
    text_ = await ensure_admin(service)
    assert (await service.authenticate(f"Bearer {text_}")).is_admin
    forged = ApiKey(parse_key(text_).id, new_key().secret)
    unknown = new_key()
    said = []
    for key in (forged, unknown):
        with pytest.raises(Unauthenticated) as caught:
            await service.authenticate(f"Bearer {key.text}")
        said.append(str(caught.value).replace(key.id, "..."))
    assert said[0] == said[1]


async def test_a_key_ends_when_it_expires(catalog) -> None:
    """Also while it is remembered."""
    clock = Clock()
    service = Accounts(catalog.database, clock=clock)
    await catalog.database.write(accounts.create_user, "eva", is_admin=False)
    new = await service.create_key(
        ROOT, user="eva", name="", scopes=[Scope.READ], project=None, expires_in_s=CACHE_S / 2
    )
    header = f"Bearer {new.text}"
    await service.authenticate(header)
    clock.now += CACHE_S * 0.75
    with pytest.raises(Unauthenticated):
        await service.authenticate(header)


async def test_a_revoked_key_ends_at_once_here_and_soon_elsewhere(catalog) -> None:
    clock = Clock()
    here, there = (Accounts(catalog.database, clock=clock) for _ in range(2))
    text_ = await ensure_admin(here)
    header = f"Bearer {text_}"
    for service in (here, there):
        await service.authenticate(header)
    await here.revoke_key(parse_key(text_).id)
    with pytest.raises(Unauthenticated):
        await here.authenticate(header)
    clock.now += CACHE_S
    with pytest.raises(Unauthenticated):
        await there.authenticate(header)
    before = await here.list_keys("admin")
    await here.revoke_key(parse_key(text_).id)  # again is the same
    assert await here.list_keys("admin") == before
    with pytest.raises(NotFound):
        await here.revoke_key("NoSuchKey000")


async def test_a_disabled_user_has_no_keys(catalog) -> None:
    service = Accounts(catalog.database)
    await ensure_admin(service)
    await catalog.database.write(accounts.create_user, "eva", is_admin=False)
    new = await service.create_key(
        ROOT, user="eva", name="", scopes=[Scope.READ], project=None, expires_in_s=None
    )
    await service.authenticate(f"Bearer {new.text}")
    await service.update_user("eva", is_admin=None, is_disabled=True)
    with pytest.raises(Unauthenticated):
        await service.authenticate(f"Bearer {new.text}")
    await service.update_user("eva", is_admin=None, is_disabled=False)
    await service.authenticate(f"Bearer {new.text}")


async def test_that_a_key_was_used_is_written_once_a_day(catalog) -> None:
    clock = Clock()
    service = Accounts(catalog.database, clock=clock)
    text_ = await ensure_admin(service)
    (key,) = await service.list_keys("admin")
    assert key.used_on is None
    await service.authenticate(f"Bearer {text_}")
    (key,) = await service.list_keys("admin")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", key.used_on)
    yesterday = update(api_keys).values(used_on="2001-01-01")
    await catalog.database.write(lambda conn: conn.execute(yesterday) and None)
    clock.now += CACHE_S
    await service.authenticate(f"Bearer {text_}")
    (again,) = await service.list_keys("admin")
    assert again.used_on == key.used_on


async def test_another_server_secret_makes_all_keys_void(catalog, monkeypatch) -> None:
    """It may come from the environment; then nothing is kept in the database."""
    monkeypatch.setenv("ASYNCART_SERVER_SECRET", SECRET)
    service = Accounts(catalog.database)
    text_ = await ensure_admin(service)
    assert await catalog.database.read(keys.get_secret) is None
    assert (await Accounts(catalog.database).authenticate(f"Bearer {text_}")).is_admin
    monkeypatch.setenv("ASYNCART_SERVER_SECRET", SECRET + "2")
    with pytest.raises(Unauthenticated):
        await Accounts(catalog.database).authenticate(f"Bearer {text_}")
    monkeypatch.setenv("ASYNCART_SERVER_SECRET", "short")
    with pytest.raises(Invalid, match="at least 32 characters"):
        Accounts(catalog.database)


async def test_of_many_replicas_one_makes_the_first_admin(url) -> None:
    """Each with connections of its own, all at the same time."""
    catalogs = [await open_catalog(url) for _ in range(6)]
    found: list[str | None] = []

    async def start(catalog: SqlCatalog) -> None:
        found.append(await ensure_admin(Accounts(catalog.database)))

    async with anyio.create_task_group() as tasks:
        for catalog in catalogs:
            tasks.start_soon(start, catalog)
    (text_,) = [each for each in found if each is not None]
    for catalog in catalogs:  # they share the secret, too
        principal = await Accounts(catalog.database).authenticate(f"Bearer {text_}")
        assert principal.scopes == frozenset(Scope)
        assert await ensure_admin(Accounts(catalog.database)) is None
        await catalog.aclose()


# keys over HTTP


async def test_a_key_may_no_more_than_the_one_that_makes_it(talk) -> None:
    """Scopes, the project and the end are inherited."""
    admin = await admin_of(talk)
    narrow = await made(
        talk, admin, "eva", scopes=[Scope.ADMIN, Scope.READ], entity="eva", project="p",
        expires_in_s=1000.0,
    )  # fmt: skip

    async def ask(**more: Any) -> wire.NewKey:
        return await talk.call(narrow, "create_key", wire.CreateKey(**more))

    with pytest.raises(Denied, match="scope 'write'"):
        await ask(scopes=[Scope.WRITE], entity="eva", project="p")
    with pytest.raises(Denied, match="eva/p only"):
        await ask(scopes=[Scope.READ])
    with pytest.raises(Denied, match="eva/p only"):
        await ask(scopes=[Scope.READ], entity="eva", project="q")
    with pytest.raises(NotFound, match="no user 'admin'"):
        await ask(user="admin", scopes=[Scope.READ], entity="eva", project="p")
    child = await ask(scopes=[Scope.READ], entity="eva", project="p", expires_in_s=9e8)
    (parent,) = [
        key
        for key in (await talk.call(admin, "list_keys", wire.ListKeys(user="eva"))).keys
        if key.id == parse_key(narrow).id
    ]
    assert child.key.expires_at == parent.expires_at
    assert child.key.project == "eva/p"


async def test_a_key_for_one_project_knows_of_nothing_else(talk) -> None:
    """Neither of its user's other keys, nor of the user's teams; and names live in that project."""
    admin = await admin_of(talk)
    await made(talk, admin, "eva")
    await talk.call(admin, "create_team", wire.CreateTeam(name="crew"))
    member = wire.SetMember(entity="crew", user="eva", role=Role.WRITER)
    await talk.call(admin, "set_member", member)
    request = wire.CreateKey(user="eva", scopes=list(Scope), entity="crew", project="p")
    bound = (await talk.call(admin, "create_key", request)).text
    keys_ = (await talk.call(bound, "list_keys", wire.ListKeys())).keys
    assert [key.id for key in keys_] == [parse_key(bound).id]
    assert (await talk.call(bound, "list_teams", wire.ListTeams())).teams == []
    me = await talk.call(bound, "about_me", wire.AboutMe())
    assert (me.entity, me.project) == ("crew", "crew/p")


async def test_nobody_without_the_scope_admin_makes_keys(talk) -> None:
    admin = await admin_of(talk)
    writer = await made(talk, admin, "eva", scopes=[Scope.READ, Scope.WRITE])
    with pytest.raises(Denied, match="scope 'admin'"):
        await talk.call(writer, "create_key", wire.CreateKey(scopes=[Scope.READ]))
    other = await talk.call(admin, "create_key", wire.CreateKey(user="eva", scopes=[Scope.READ]))
    with pytest.raises(Denied, match="scope 'admin'"):
        await talk.call(writer, "revoke_key", wire.RevokeKey(key_id=other.key.id))
    mine = parse_key(writer).id
    await talk.call(writer, "revoke_key", wire.RevokeKey(key_id=mine))  # itself it may always
    with pytest.raises(Denied) as caught:
        await talk.call(writer, "about_me", wire.AboutMe())
    assert status_of(caught.value) == 401


@pytest.mark.parametrize(
    "request_",
    [
        wire.CreateKey(scopes=[]),
        wire.CreateKey(scopes=[Scope.READ], expires_in_s=0.0),
        wire.CreateKey(scopes=[Scope.READ], expires_in_s=-1.0),
        wire.CreateKey(scopes=[Scope.READ], expires_in_s=1e300),
        wire.CreateKey(scopes=[Scope.READ], project="p"),
        wire.CreateKey(scopes=[Scope.READ], entity="e"),
        wire.CreateKey(scopes=[Scope.READ], entity="e", project="p/q"),
        wire.CreateKey(scopes=[Scope.READ], name="x" * 200),
        wire.CreateKey(scopes=[Scope.READ], name="a\nb"),
    ],
)
async def test_keys_that_cannot_be(talk, request_) -> None:
    with pytest.raises(Invalid):
        await talk.call(await admin_of(talk), "create_key", request_)


async def test_users_and_teams_share_their_names(talk) -> None:
    admin = await admin_of(talk)
    await talk.call(admin, "create_user", wire.CreateUser(name="eva"))
    await talk.call(admin, "create_team", wire.CreateTeam(name="crew"))
    for name, what in (("eva", "user"), ("crew", "team")):
        with pytest.raises(Conflict, match=f"taken by a {what}"):
            await talk.call(admin, "create_user", wire.CreateUser(name=name))
        with pytest.raises(Conflict, match=f"taken by a {what}"):
            await talk.call(admin, "create_team", wire.CreateTeam(name=name))
    for bad in ("", "a b", "..", "a/b", "x" * 200):
        with pytest.raises(Invalid):
            await talk.call(admin, "create_user", wire.CreateUser(name=bad))


async def test_the_last_administrator_stays(talk) -> None:
    admin = await admin_of(talk)
    for change in ({"is_admin": False}, {"is_disabled": True}):
        with pytest.raises(Conflict, match="last administrator"):
            await talk.call(admin, "update_user", wire.UpdateUser(user="admin", **change))
    await talk.call(admin, "create_user", wire.CreateUser(name="eva", is_admin=True))
    await talk.call(admin, "update_user", wire.UpdateUser(user="admin", is_admin=False))
    with pytest.raises(Denied):
        await talk.call(admin, "list_users", wire.ListUsers())


async def test_pages_of_users(talk) -> None:
    admin = await admin_of(talk)
    for name in ("c", "a", "b"):
        await talk.call(admin, "create_user", wire.CreateUser(name=name))
    first = await talk.call(admin, "list_users", wire.ListUsers(limit=2))
    second = await talk.call(admin, "list_users", wire.ListUsers(after=first.next, limit=2))
    assert [user.name for user in first.users + second.users] == ["a", "admin", "b", "c"]
    assert second.next is None


async def test_a_member_who_leaves_loses_the_projects_too(talk) -> None:
    admin = await admin_of(talk)
    eva = await made(talk, admin, "eva")
    await talk.call(admin, "create_team", wire.CreateTeam(name="crew"))
    await talk.call(
        admin, "set_member", wire.SetMember(entity="crew", user="eva", role=Role.VIEWER)
    )
    grant = wire.SetProjectRole(entity="crew", project="p", user="eva", role=Role.MAINTAINER)
    await talk.call(admin, "set_project_role", grant)
    assert (await talk.call(eva, "list_teams", wire.ListTeams())).teams == [
        wire.Team(name="crew", role=Role.VIEWER)
    ]
    run = RunInfo("r", "crew", "p", "r", None, RunState.RUNNING, 1.0)
    await talk.call(eva, "create_run", wire.CreateRun(run=run))  # the project role raises
    await talk.call(admin, "remove_member", wire.RemoveMember(entity="crew", user="eva"))
    with pytest.raises(NotFound):
        await talk.call(eva, "get_run", wire.GetRun(run_id="r"))
    assert (await talk.call(eva, "list_teams", wire.ListTeams())).teams == []


# limits


def test_a_bucket_fills_again() -> None:
    clock = Clock()
    bucket: Buckets[str] = Buckets(2.0, 3.0, clock)
    clock.now = 100.0
    for _ in range(3):
        assert bucket.wait_s("a") == 0
        bucket.take("a")
    assert bucket.wait_s("a") == 0.5
    assert bucket.wait_s("b") == 0
    clock.now += 0.5
    assert bucket.wait_s("a") == 0


def test_requests_at_once_and_per_second() -> None:
    clock = Clock()
    limits = Limits(requests_per_s=1.0, burst=3.0, at_once=2, clock=clock)
    with limits.request(1), limits.request(1):
        with pytest.raises(TooMany, match="2 requests of this user"), limits.request(1):
            pass
        with limits.request(2):
            pass
    with limits.request(1):
        pass
    with pytest.raises(TooMany) as caught, limits.request(1):
        pass
    assert (caught.value.http_status, caught.value.retry_after_s) == (429, 1)
    clock.now += 1.0
    with limits.request(1):
        pass


async def test_too_many_requests_are_told_when_to_come_back(catalog, tmp_path) -> None:
    limits = Limits(requests_per_s=0.1, burst=1.0)
    async with talking(catalog, tmp_path / "store", limits=limits) as talk:
        admin = await admin_of(talk)
        await talk.call(admin, "about_me", wire.AboutMe())
        status, headers, _ = await talk.ask(admin, "about_me", wire.AboutMe())
        assert (status, headers["Retry-After"]) == (429, "10")


async def test_wrong_keys_slow_down_their_address_only(catalog) -> None:
    """And no key from there that was right before, for as long as it is."""
    clock = Clock()
    service = Accounts(catalog.database, clock=clock)
    text_ = await ensure_admin(service)
    await service.authenticate(f"Bearer {text_}", "1.2.3.4")
    for _ in range(int(REFUSALS_BURST)):
        with pytest.raises(Unauthenticated):
            await service.authenticate(f"Bearer {new_key().text}", "1.2.3.4")
    with pytest.raises(TooMany):
        await service.authenticate(f"Bearer {new_key().text}", "1.2.3.4")
    with pytest.raises(Unauthenticated):
        await service.authenticate(f"Bearer {new_key().text}", "5.6.7.8")
    await service.authenticate(f"Bearer {text_}", "1.2.3.4")
    clock.now += 10 * CACHE_S

    async def wrong_keys() -> None:
        """Until no other one is looked at."""
        for _ in range(int(REFUSALS_BURST)):
            with contextlib.suppress(Unauthenticated, TooMany):
                await service.authenticate(f"Bearer {new_key().text}", "1.2.3.4")
        with pytest.raises(TooMany):
            await service.authenticate(f"Bearer {new_key().text}", "1.2.3.4")

    await wrong_keys()
    await service.authenticate(f"Bearer {text_}", "1.2.3.4")
    key = parse_key(text_)
    forged = ApiKey(key.id, new_key().secret)  # its id is no secret, and does not help
    clock.now += CACHE_S
    await wrong_keys()
    with pytest.raises(TooMany):
        await service.authenticate(f"Bearer {forged.text}", "1.2.3.4")
    await service.revoke_key(key.id)
    clock.now += CACHE_S
    with pytest.raises(Unauthenticated):
        await service.authenticate(f"Bearer {text_}", "1.2.3.4")
    await wrong_keys()
    with pytest.raises(TooMany):
        await service.authenticate(f"Bearer {text_}", "1.2.3.4")


async def test_a_batch_counts_as_what_it_carries(catalog, tmp_path) -> None:
    """Also when nothing of it is right; where there is no room for all, none is carried out."""
    limits = Limits(requests_per_s=0.1, burst=5.0)
    async with talking(catalog, tmp_path / "store", limits=limits) as talk:
        admin = await admin_of(talk)

        async def batch(*names: str) -> tuple[int, str | None]:
            asked = [msgspec.json.encode(wire.CreateUser(name=name)) for name in names]
            calls = [wire.Call(name="create_user", request=msgspec.Raw(each)) for each in asked]
            status, headers, _ = await talk.ask(admin, "batch", wire.Batch(calls=calls))
            return status, headers.get("Retry-After")

        assert await batch("a", "b", "c") == (200, None)
        status, retry_after = await batch("d", "e", "f")
        assert status == 429
        assert retry_after is not None
        assert 1 <= int(retry_after) <= 10
        found = await catalog.database.read(accounts.list_users, None, 10)
        assert {user.name for user in found} == {"admin", "a", "b", "c"}


# the audit log


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_log SET action = 'x'", "DELETE FROM audit_log"]
)
async def test_the_audit_log_cannot_be_rewritten(talk, catalog, statement) -> None:
    admin = await admin_of(talk)
    await talk.call(admin, "create_user", wire.CreateUser(name="eva"))
    with pytest.raises(Exception, match="append-only"):
        await catalog.database.write(lambda conn: conn.execute(text(statement)) and None)
    assert len((await talk.call(admin, "list_audit", wire.ListAudit())).entries) == 1


async def test_what_is_done_is_written_down_with_who_and_when(talk) -> None:
    admin = await admin_of(talk)
    eva = await made(talk, admin, "eva")
    await talk.call(
        eva, "protect_alias", wire.ProtectAlias(entity="eva", project="p", pattern="prod*"),
        **{"X-Request-Id": "my-request"},
    )  # fmt: skip
    entries = (await talk.call(admin, "list_audit", wire.ListAudit())).entries
    assert [(each.user, each.action) for each in entries] == [
        ("eva", "protect_alias"),
        ("admin", "create_key"),
        ("admin", "create_user"),
    ]
    last, key, user = entries
    assert (last.entity, last.project, last.subject) == ("eva", "p", "prod*")
    assert (last.request_id, last.key_id) == ("my-request", parse_key(eva).id)
    assert key.detail["key_id"] == parse_key(eva).id
    assert user.subject == "eva"
    assert parse_key(eva).secret not in repr(entries)
    assert last.at >= user.at > 1.6e9
    own = await talk.call(eva, "list_audit", wire.ListAudit(entity="eva"))
    assert [each.action for each in own.entries] == ["protect_alias"]
    page = await talk.call(admin, "list_audit", wire.ListAudit(limit=2))
    rest = await talk.call(admin, "list_audit", wire.ListAudit(after=page.next))
    assert page.entries + rest.entries == entries


async def test_what_was_refused_or_failed_is_not_in_the_audit_log(talk, catalog) -> None:
    """A row is there if, and only if, the change is."""
    admin = await admin_of(talk)
    eva = await made(talk, admin, "eva")
    before = await talk.call(admin, "list_audit", wire.ListAudit())
    with pytest.raises(Denied):
        await talk.call(eva, "create_user", wire.CreateUser(name="x"))
    with pytest.raises(Conflict):
        await talk.call(admin, "create_user", wire.CreateUser(name="eva"))
    with pytest.raises(NotFound):
        await talk.call(admin, "delete_version", wire.DeleteVersion(version_id="0" * 32))
    assert await talk.call(admin, "list_audit", wire.ListAudit()) == before
    count = select(audit_log.c.id)
    rows = await catalog.database.read(lambda conn: conn.execute(count).all())
    assert len(rows) == len(before.entries)


# idempotency keys


async def test_an_idempotency_key_gives_the_first_answer_again(talk) -> None:
    admin = await admin_of(talk)
    key = {"Idempotency-Key": "one"}
    first = await talk.call(admin, "create_user", wire.CreateUser(name="eva"), **key)
    again = await talk.call(admin, "create_user", wire.CreateUser(name="eva"), **key)
    assert again == first
    with pytest.raises(Conflict, match="another request"):
        await talk.call(admin, "create_user", wire.CreateUser(name="max"), **key)
    with pytest.raises(Conflict, match="taken by a user"):
        await talk.call(admin, "create_user", wire.CreateUser(name="eva"))
    entries = (await talk.call(admin, "list_audit", wire.ListAudit())).entries
    assert len(entries) == 1


async def test_an_idempotency_key_belongs_to_its_user(talk) -> None:
    admin = await admin_of(talk)
    eva = await made(talk, admin, "eva")
    for user, bearer in (("admin", admin), ("eva", eva)):
        request = wire.ProtectAlias(entity=user, project="p", pattern="x")
        await talk.call(bearer, "protect_alias", request, **{"Idempotency-Key": "same"})


async def test_a_failed_write_may_be_tried_again_with_its_key(talk) -> None:
    admin = await admin_of(talk)
    key = {"Idempotency-Key": "one"}
    request = wire.SetMember(entity="crew", user="admin", role=Role.ADMIN)
    with pytest.raises(Invalid):
        await talk.call(admin, "set_member", request, **key)
    await talk.call(admin, "create_team", wire.CreateTeam(name="crew"))
    await talk.call(admin, "set_member", request, **key)


async def test_an_answer_with_a_secret_is_never_kept(talk, catalog) -> None:
    """A signed URL is one; nor is what was only asked, which may be another thing a moment later."""
    admin = await admin_of(talk)
    request = wire.CreateKey(scopes=[Scope.READ])
    key = {"Idempotency-Key": "one"}
    first = await talk.call(admin, "create_key", request, **key)
    second = await talk.call(admin, "create_key", request, **key)
    assert first.text != second.text
    session_id, object_id = uuid4().hex, uuid4().hex
    begin = wire.BeginSession(session_id=session_id, entity="admin")
    await talk.call(admin, "begin_session", begin)
    upload = wire.RegisterUpload(session_id=session_id, object_id=object_id, want_url=True)
    wanted = wire.WantedUrl(object_id=object_id, method=wire.UrlMethod.PUT)
    for name, asked in (
        ("register_upload", upload),
        ("sign_urls", wire.SignUrls(wanted=[wanted])),
        ("stored_contents", wire.StoredContents(session_id=session_id, digests=[])),
        ("stored_chunks", wire.StoredChunks(session_id=session_id, digests=[])),
        ("object_sizes", wire.ObjectSizes(object_ids=[])),
    ):
        await talk.call(admin, name, asked, **key)
    rows = await catalog.database.read(
        lambda conn: conn.execute(text("SELECT count(*) FROM idempotency")).scalar_one()
    )
    assert rows == 0


def test_what_needs_no_key_is_not_shown_by_accident() -> None:
    """Neither a signed URL, nor the key of the first administrator."""
    method = wire.UrlMethod.PUT
    url = wire.SignedUrl(object_id="o", method=method, url="http://x/?signature=secret", ttl_s=1.0)
    started = Started("http://x", "x", 1, "catalog", "store", "aart_secret")
    for value in (url, wire.SignedUrls(urls=[url]), wire.Registered(url=url), started):
        assert "secret" not in repr(value)
        assert "secret" not in str(value)


async def aged(catalog, seconds: float) -> None:
    age = text(f"UPDATE idempotency SET created_at = created_at - {seconds}")
    await catalog.database.write(lambda conn: conn.execute(age) and None)


async def test_of_two_requests_at_once_one_is_carried_out(catalog) -> None:
    """The other is told to come back; after a minute nobody waits for a replica that died."""
    digest, write = bytes(32), catalog.database.write
    assert isinstance(await write(idempotency.reserve, 1, "k", digest), idempotency.Reserved)
    with pytest.raises(Unavailable, match="being carried out"):
        await write(idempotency.reserve, 1, "k", digest)
    await aged(catalog, idempotency.TAKE_OVER_S)
    reserved = await write(idempotency.reserve, 1, "k", digest)
    assert isinstance(reserved, idempotency.Reserved)
    kept = idempotency.Kept(200, b"answer")
    await write(idempotency.keep, reserved, kept)
    assert await write(idempotency.reserve, 1, "k", digest) == kept
    await write(idempotency.release, reserved)  # too late: it has its answer
    assert await write(idempotency.reserve, 1, "k", digest) == kept
    await aged(catalog, idempotency.KEPT_S)
    another = await write(idempotency.reserve, 1, "k", b"another request")
    assert isinstance(another, idempotency.Reserved)


@pytest.mark.parametrize("is_answered", [False, True])
async def test_who_was_overtaken_has_no_say(catalog, is_answered) -> None:
    """Neither its answer nor its failure touches the reservation, or the answer, of the other one."""
    digest, write = bytes(32), catalog.database.write
    slow = await write(idempotency.reserve, 1, "k", digest)
    await aged(catalog, idempotency.TAKE_OVER_S)
    slow = slow._replace(since=slow.since - idempotency.TAKE_OVER_S)
    other = await write(idempotency.reserve, 1, "k", digest)
    answer = idempotency.Kept(200, b"of the other one")
    if is_answered:
        await write(idempotency.keep, other, answer)
    await write(idempotency.keep, slow, idempotency.Kept(200, b"of the slow one"))
    await write(idempotency.release, slow)
    if not is_answered:
        with pytest.raises(Unavailable, match="being carried out"):
            await write(idempotency.reserve, 1, "k", digest)
        await write(idempotency.keep, other, answer)
    assert await write(idempotency.reserve, 1, "k", digest) == answer


async def test_a_key_that_is_released_while_it_is_looked_up(catalog, monkeypatch) -> None:
    """Between finding it taken and reading by whom: whoever asked comes back."""
    write = catalog.database.write
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "insert_if_new", lambda *_: False)
        with pytest.raises(Unavailable, match="repeat in a moment"):
            await write(idempotency.reserve, 1, "k", bytes(32))
    reserved = await write(idempotency.reserve, 1, "k", bytes(32))
    assert isinstance(reserved, idempotency.Reserved)


async def test_answers_are_kept_for_a_day(talk, catalog) -> None:
    admin = await admin_of(talk)
    await talk.call(
        admin, "create_team", wire.CreateTeam(name="crew"), **{"Idempotency-Key": "one"}
    )
    assert await catalog.database.write(idempotency.sweep) == 0
    await aged(catalog, 86_401)
    assert await catalog.database.write(idempotency.sweep) == 1


# logs


async def test_a_refused_key_is_logged_by_its_id(catalog, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    key = new_key()
    with pytest.raises(Unauthenticated):
        await Accounts(catalog.database).authenticate(f"Bearer {key.text}")
    assert key.id in caplog.text
    assert key.secret not in caplog.text


def test_429_is_unavailable_for_now() -> None:
    assert issubclass(TooMany, Unavailable)
