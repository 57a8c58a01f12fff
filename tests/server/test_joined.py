"""The question whether a caller may is asked in the transaction of the answer, and never left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from talk import ENTITY, PROJECT, Talk, in_folder, served

from asyncart import wire
from asyncart.server import guard, routing
from asyncart.server.policy import POLICIES, Target


def test_what_is_joined_says_itself_what_the_audit_log_needs() -> None:
    """There is no resource yet when it is written down who did what, where."""
    assert POLICIES.keys() >= guard.JOINED
    audited = {name for name in guard.JOINED if POLICIES[name].is_audited}
    for name in audited:
        assert {"entity", "project", "collection"} <= {*wire.ROUTES[name].request.__struct_fields__}
    targets = {POLICIES[name].target for name in guard.JOINED}
    # Of these, handlers are told what the caller may touch: that is found out before.
    assert targets.isdisjoint({Target.OBJECTS, Target.LISTING, Target.URLS})


async def strangers(admin: Talk) -> Talk:
    (await admin.ask("create_team", name=ENTITY)).ok()
    (await admin.ask("create_user", name="bob")).ok()
    made = await admin.ask("create_key", user="bob", scopes=["read", "write"])
    return admin.with_key(made.ok()["text"])


async def test_one_transaction_for_the_question_and_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(*in_folder(tmp_path), has_accounts=True) as admin:
        bob = await strangers(admin)
        named = {"entity": ENTITY, "project": PROJECT, "collection": "data", "digest": b"0" * 32}
        session_id = await admin.session()
        await bob.ask("about_me")  # so that the key is known
        counted: list[str] = []
        database = admin.context.database.database  # type: ignore[attr-defined]
        for kind in ("read", "write"):
            plain = getattr(database, kind)

            async def count(work, *args, kind=kind, plain=plain, **kwargs):  # type: ignore[no-untyped-def]
                counted.append(kind)
                return await plain(work, *args, **kwargs)

            monkeypatch.setattr(database, kind, count)
        (await admin.ask("find_version", **named)).ok()
        assert counted == ["read"]
        (await admin.ask("renew_session", session_id=session_id)).ok()
        assert counted == ["read", "write"]
        assert (await bob.ask("find_version", **named)).ok() == {"version": None}
        assert (await bob.ask("renew_session", session_id=session_id)).status == 409


async def test_a_handler_that_asks_nobody_answers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def careless(caller: object, request: object) -> wire.Found:
        return wire.Found()

    monkeypatch.setitem(routing.HANDLERS, "find_version", careless)
    async with served(*in_folder(tmp_path), has_accounts=True) as admin:
        named = {"entity": ENTITY, "project": PROJECT, "collection": "data", "digest": b"0" * 32}
        (await admin.ask("find_version", **named)).refused(500, "error")
