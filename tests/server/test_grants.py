"""Naming a digest, or an object, gives no access to bytes: who may read no version that holds them is told
nothing, and cannot put them into a version of their own."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest
from talk import ENTITY, Said, Talk, content, digest, draft, in_folder, served

from asyncart.model import object_key

SECRET = b"what alice logged"


class Team(NamedTuple):
    """Alice writes in project a, Bob in project b, of the same entity."""

    admin: Talk
    alice: Talk
    bob: Talk

    async def let_bob_read(self, project: str) -> None:
        (await self.admin.ask("set_project_role", entity=ENTITY, project=project, user="bob", role="viewer")).ok()  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres"])
async def team(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Team]:
    catalog, store = in_folder(tmp_path)
    if request.param == "postgres":
        catalog = request.getfixturevalue("postgres_url")
    async with served(catalog, store, has_accounts=True) as admin:
        (await admin.ask("create_team", name=ENTITY)).ok()
        keys = {}
        for user, project in (("alice", "a"), ("bob", "b")):
            (await admin.ask("create_user", name=user)).ok()
            role = {"entity": ENTITY, "project": project, "user": user, "role": "writer"}
            (await admin.ask("set_project_role", **role)).ok()
            made = await admin.ask("create_key", user=user, scopes=["read", "write", "alias"])
            keys[user] = made.ok()["text"]
        yield Team(admin, admin.with_key(keys["alice"]), admin.with_key(keys["bob"]))


async def logged_by_alice(team: Team) -> str:
    """The object that holds the secret."""
    session_id = await team.alice.session(project="a")
    committed = await team.alice.logged(session_id, SECRET, project="a")
    (await team.alice.ask("end_session", session_id=session_id)).ok()
    found = await team.alice.ask(
        "resolve", entity=ENTITY, project="a", collection="data", selector="latest", urls="true"
    )
    assert found.ok()["version"] == committed["version"]
    return str(found.body["urls"][1]["object_id"])


async def offered(talk: Talk, session_id: str) -> bool:
    found = await talk.ask("stored_contents", session_id=session_id, digests=[digest(SECRET)])
    return bool(found.ok()["contents"])


async def test_a_stranger_in_the_same_entity_gets_nothing(team: Team) -> None:
    object_id = await logged_by_alice(team)
    bob = team.bob
    session_id = await bob.session(project="b")
    assert not await offered(bob, session_id)
    assert (await bob.ask("object_sizes", object_ids=[object_id])).ok() == {"sizes": {}}
    said = await bob.ask("sign_urls", wanted=[{"object_id": object_id, "method": "GET"}])
    foreign = said.refused(404, "not_found")
    missing = os.urandom(16).hex()
    said = await bob.ask("sign_urls", wanted=[{"object_id": missing, "method": "GET"}])
    assert said.refused(404, "not_found") == foreign.replace(object_id, missing)
    manifest_id = await bob.stored(session_id, b"manifest")
    stolen = draft(session_id, b"x", manifest_id, project="b", object_ids=[object_id])
    (await bob.ask("commit_version", **stolen)).refused(409, "conflict")
    reaching = await bob.ask(
        "add_stored", session_id=session_id, objects=[], contents=[content(SECRET, object_id)]
    )
    reaching.refused(409, "conflict")


async def test_who_may_read_a_version_may_have_its_objects(team: Team) -> None:
    """And put them into a version of their own, which holds them from then on."""
    object_id = await logged_by_alice(team)
    bob = team.bob
    await team.let_bob_read("a")
    session_id = await bob.session(project="b")
    assert await offered(bob, session_id)
    wanted = [{"object_id": object_id, "method": "GET"}]
    url = (await bob.ask("sign_urls", wanted=wanted)).ok()["urls"][0]["url"]
    assert (await bob.raw("GET", url)).body == SECRET
    manifest_id = await bob.stored(session_id, b"manifest")
    mine = draft(session_id, b"x", manifest_id, project="b", object_ids=[object_id])
    (await bob.ask("commit_version", **mine)).ok()
    gone = {"entity": ENTITY, "project": "a", "user": "bob"}
    (await team.admin.ask("remove_project_role", **gone)).ok()
    assert (await bob.ask("sign_urls", wanted=wanted)).status == 200


async def test_what_a_session_stored_is_its_user_s(team: Team) -> None:
    """Before any version holds it, for the next session of the same user, and for nobody else."""
    session_id = await team.alice.session(project="a")
    object_id = await team.alice.stored(session_id, SECRET)
    (await team.alice.ask("end_session", session_id=session_id)).ok()
    assert await offered(team.alice, await team.alice.session(project="a"))
    await team.let_bob_read("a")
    assert not await offered(team.bob, await team.bob.session(project="b"))
    assert (await team.bob.ask("object_sizes", object_ids=[object_id])).ok() == {"sizes": {}}


async def test_an_unfinished_upload_is_its_user_s(team: Team) -> None:
    """Whoever took it over could complete it, and read what others had sent."""
    alice, bob = team.alice, team.bob
    first = await alice.session(project="a")
    object_id, _ = await alice.registered(first, token="t", resume_key="source")
    (await alice.ask("end_session", session_id=first)).ok()
    theirs = await bob.session(project="b")
    adopted = await bob.ask("adopt_upload", session_id=theirs, resume_key="source")
    assert adopted.ok() == {"upload": None}
    for name in ("begin_object_upload", "resume_object_upload"):
        (await bob.ask(name, object_id=object_id)).refused(404, "not_found")
    (await bob.ask("forget_upload", object_id=object_id)).ok()
    (await bob.ask("delete_objects", object_ids=[object_id])).ok()
    again = await alice.session(project="a")
    adopted = await alice.ask("adopt_upload", session_id=again, resume_key="source")
    assert adopted.ok()["upload"]["object_id"] == object_id


async def test_a_foreign_session_is_as_one_that_is_over(team: Team) -> None:
    session_id = await team.alice.session(project="a")
    missing = os.urandom(16).hex()
    for name in ("renew_session", "stored_contents"):
        more = {"digests": []} if name == "stored_contents" else {}
        foreign = (await team.bob.ask(name, session_id=session_id, **more)).refused(409, "conflict")
        absent = (await team.bob.ask(name, session_id=missing, **more)).refused(409, "conflict")
        assert foreign.replace(session_id, missing) == absent
    (await team.bob.ask("end_session", session_id=session_id)).ok()
    (await team.alice.ask("renew_session", session_id=session_id)).ok()


async def test_nobody_can_make_a_foreign_object_look_damaged(team: Team) -> None:
    """Not by a complaint alone, and not by a wrong word about what lies in it."""
    object_id = await logged_by_alice(team)
    await team.let_bob_read("a")
    session_id = await team.bob.session(project="b")
    wrong = {**content(b"something else!!!", object_id)}
    said = await team.bob.ask("add_stored", session_id=session_id, objects=[], contents=[wrong])
    said.ok()
    (await team.bob.ask("mark_damaged", object_ids=[object_id])).ok()
    assert await offered(team.alice, await team.alice.session(project="a"))
    store = team.admin.context.store
    assert object_key(object_id) in await store.sizes([object_key(object_id)])


async def test_nobody_says_anew_what_lies_in_a_stored_object(team: Team) -> None:
    """Calling it one's own, with its true size: who may not read it learns nothing, and who may read it
    changes nothing, nor does whoever wrote it (whose call may be a repeated one)."""
    object_id = await logged_by_alice(team)
    session_id = await team.bob.session(project="b")
    wrong = base64.b64encode(digest(b"something else!!!")).decode()
    claim = {
        "object_id": object_id,
        "size": len(SECRET),
        "chunks": [[[wrong, len(SECRET)], 0]],
    }

    async def said(talk: Talk, session_id: str) -> Said:
        found = content(b"something else!!!", object_id)
        return await talk.ask(
            "add_stored", session_id=session_id, objects=[claim], contents=[found]
        )

    foreign = (await said(team.bob, session_id)).refused(409, "conflict")
    claim["size"] += 1
    assert (await said(team.bob, session_id)).refused(409, "conflict") == foreign
    claim["size"] -= 1
    await team.let_bob_read("a")
    (await said(team.bob, session_id)).ok()
    (await said(team.alice, await team.alice.session(project="a"))).ok()
    for talk in (team.bob, team.alice):
        (await talk.ask("mark_damaged", object_ids=[object_id])).ok()
    assert await offered(team.alice, await team.alice.session(project="a"))


async def test_nobody_calls_a_foreign_object_a_manifest(team: Team) -> None:
    """It is none: with such a version a complaint would find that it is damaged."""
    object_id = await logged_by_alice(team)
    await team.let_bob_read("a")
    session_id = await team.bob.session(project="b")
    for manifest_id, status in ((object_id, 409), (await team.bob.stored(session_id, b"own"), 200)):
        said = draft(session_id, b"x", manifest_id, project="b", object_ids=[object_id])
        assert (await team.bob.ask("commit_version", **said)).status == status
        (await team.bob.ask("mark_damaged", object_ids=[object_id])).ok()
        assert await offered(team.alice, await team.alice.session(project="a"))


async def test_a_key_is_needed(team: Team) -> None:
    """For everything but the description of the API."""
    nobody = team.admin.with_key("")
    (await nobody.ask("about_me")).refused(401, "denied")
    (await nobody.ask("batch", calls=[])).refused(401, "denied")
    assert (await nobody.raw("GET", "/api/v1/openapi.json")).status == 200


async def test_a_session_that_is_begun_twice_at_once_is_one(team: Team) -> None:
    """As when an answer is late and the client asks again: neither of them fails."""
    for _ in range(5):
        session_id = os.urandom(16).hex()
        answers: list[Said] = []

        async def begin(session_id: str = session_id, answers: list[Said] = answers) -> None:
            named = {"session_id": session_id, "entity": ENTITY, "project": "a"}
            answers.append(await team.alice.ask("begin_session", **named))

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(begin)
        assert [said.status for said in answers] == [200] * 6, [said.body for said in answers]
    (await team.alice.ask("renew_session", session_id=session_id)).ok()


async def test_a_key_for_one_project_continues_nothing_of_another(team: Team) -> None:
    """Not even what its own user has begun; what it began itself, it does."""
    role = {"entity": ENTITY, "project": "b", "user": "alice", "role": "writer"}
    (await team.admin.ask("set_project_role", **role)).ok()

    async def key_for(project: str | None) -> Talk:
        where = {} if project is None else {"entity": ENTITY, "project": project}
        made = await team.admin.ask("create_key", user="alice", scopes=["read", "write"], **where)
        return team.admin.with_key(made.ok()["text"])

    everywhere, only_a, only_b = await key_for(None), await key_for("a"), await key_for("b")

    async def begun(talk: Talk) -> str:
        """An upload in parts that its writer gave up on."""
        session_id = await talk.session()
        object_id, _ = await talk.registered(session_id, token="t", resume_key="large.bin")
        (await talk.ask("end_session", session_id=session_id)).ok()
        return object_id

    async def adopted(talk: Talk) -> str | None:
        session_id = await talk.session()
        found = await talk.ask("adopt_upload", session_id=session_id, resume_key="large.bin")
        upload = found.ok()["upload"]
        (await talk.ask("end_session", session_id=session_id)).ok()
        return None if upload is None else str(upload["object_id"])

    of_a = await begun(only_a)
    assert await adopted(only_b) is None
    assert await adopted(only_a) == of_a
    assert await adopted(everywhere) == of_a
    assert await adopted(only_a) is None  # it is of a session for any project now
    said = await only_a.ask("object_sizes", object_ids=[of_a])
    assert said.ok()["sizes"] == {}
