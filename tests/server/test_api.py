"""What every route does, said by a client that knows nothing but HTTP: over SQLite and a folder, and over
PostgreSQL and a bucket."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from services import S3Server
from talk import ENTITY, PROJECT, Talk, content, digest, draft, fresh_object, in_folder, served

NAME = {"entity": ENTITY, "project": PROJECT, "collection": "data"}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(params=["folder", "bucket"])
async def talk(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Talk]:
    if request.param == "folder":
        catalog, store = in_folder(tmp_path)
    else:
        bucket: S3Server = request.getfixturevalue("aws_environment")
        catalog = request.getfixturevalue("postgres_url")
        store = f"s3://{bucket.bucket}/server-{os.urandom(4).hex()}"
    async with served(catalog, store) as talk:
        yield talk


async def test_about_me(talk: Talk) -> None:
    """Without accounts everybody is the administrator, and names live in the server's own entity."""
    me = (await talk.ask("about_me")).ok()
    assert (me["entity"], me["part_bytes"]) == ("local", talk.context.store.part_bytes)


async def test_bytes_travel_by_signed_urls_and_versions_resolve(talk: Talk) -> None:
    """What was sent to a URL is what the URLs of the resolved version give, in one request."""
    session_id = await talk.session()
    data = os.urandom(100_000)
    committed = await talk.logged(session_id, data, aliases=["best"], metadata={"a": [1, None]})
    assert committed["is_new"] is True
    found = (await talk.ask("resolve", **NAME, selector="best", urls="true")).ok()
    assert found["version"] == committed["version"]
    manifest, object_ = found["urls"]
    assert manifest["object_id"] == committed["version"]["manifest"]["object_id"]
    assert (await talk.raw("GET", object_["url"])).body == data
    part = await talk.raw("GET", object_["url"], headers={"Range": "bytes=10-19"})
    assert (part.status, part.body) == (206, data[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(data)}"
    beyond = await talk.raw("GET", object_["url"], headers={"Range": "bytes=200000-"})
    assert beyond.status == 416


async def test_a_commit_repeated_is_the_same_version(talk: Talk) -> None:
    """And the same content again is no new one."""
    session_id = await talk.session()
    manifest_id = await talk.stored(session_id, b"manifest of x")
    object_id = await talk.stored(session_id, b"x")
    said = draft(session_id, b"x", manifest_id, object_ids=[object_id])
    first = (await talk.ask("commit_version", **said)).ok()
    assert (await talk.ask("commit_version", **said)).ok() == first
    again = (await talk.ask("commit_version", **{**said, "draft_id": "other"})).ok()
    assert (again["is_new"], again["version"]["number"]) == (False, 0)
    elsewhere = await talk.ask("commit_version", **{**said, "project": "cars"})
    elsewhere.refused(409, "conflict")


async def test_stored_contents_and_chunks_are_found_by_digest(talk: Talk) -> None:
    """Answers name the position of the question, and leave out what is not stored."""
    session_id = await talk.session()
    object_id, answer = await talk.registered(session_id, want_url=True)
    assert (await talk.send(answer["url"], b"abcd")).status == 200
    (
        await talk.ask(
            "add_stored",
            session_id=session_id,
            objects=[
                {
                    "object_id": object_id,
                    "size": 4,
                    "chunks": [[[b64(digest(b"ab")), 2], 0], [[b64(digest(b"cd")), 2], 2]],
                }
            ],
            contents=[content(b"abcd", object_id)],
        )
    ).ok()
    found = await talk.ask(
        "stored_contents", session_id=session_id, digests=[digest(b"no"), digest(b"abcd")]
    )
    assert [each["extents"] for each in found.ok()["contents"]] == [[[object_id, 0, 4]]]
    found = await talk.ask(
        "stored_chunks", session_id=session_id, digests=[digest(b"no"), digest(b"cd")]
    )
    assert found.ok()["chunks"] == [[1, [object_id, 2, 2]]]


async def test_an_object_counts_when_the_store_has_it(talk: Talk) -> None:
    """A client that says so of bytes that never arrived is not believed."""
    session_id = await talk.session()
    object_id, _ = await talk.registered(session_id)
    said = await talk.ask(
        "add_stored",
        session_id=session_id,
        objects=[{"object_id": object_id, "size": 4}],
        contents=[content(b"abcd", object_id)],
    )
    assert "no such object" in said.refused(409, "conflict")


async def test_an_upload_in_parts(talk: Talk) -> None:
    """Begun, parts sent by URL, resumed with what the store has, completed, and completed again."""
    session_id = await talk.session()
    object_id, _ = await talk.registered(session_id)
    token = (await talk.ask("begin_object_upload", object_id=object_id)).ok()["token"]
    parts = [os.urandom(5 << 20), b"the end"]
    wanted = [
        {"object_id": object_id, "method": "PUT", "part": index, "token": token, "offset": offset}
        for index, offset in ((0, 0), (1, 5 << 20))
    ]
    urls = (await talk.ask("sign_urls", wanted=wanted)).ok()["urls"]
    assert [url["part"] for url in urls] == [0, 1]
    etags = []
    for url, data in zip(urls, parts, strict=True):
        sent = await talk.raw("PUT", url["url"], data=data)
        assert sent.status == 200, sent.body
        etags.append(sent.headers["ETag"])
    resumed = (await talk.ask("resume_object_upload", object_id=object_id, token=token)).ok()
    assert [part[:2] for part in resumed["upload"]["parts"]] == [[0, 5 << 20], [1, 7]]
    lost = (await talk.ask("resume_object_upload", object_id=object_id)).ok()
    assert lost["upload"]["token"] == token
    done = {"object_id": object_id, "token": token, "size": (5 << 20) + 7, "sizes": [5 << 20, 7]}
    wrong = await talk.ask("complete_object_upload", **done, etags=[etags[0], '"wrong"'])
    wrong.refused(409, "conflict")
    (await talk.ask("complete_object_upload", **done, etags=etags)).ok()
    (await talk.ask("complete_object_upload", **done, etags=etags)).ok()
    url = (await talk.ask("sign_urls", wanted=[{"object_id": object_id, "method": "GET"}])).ok()
    assert (await talk.raw("GET", url["urls"][0]["url"])).body == b"".join(parts)
    sizes = (await talk.ask("object_sizes", object_ids=[object_id, fresh_object()])).ok()
    assert sizes == {"sizes": {object_id: (5 << 20) + 7}}


async def test_an_upload_that_is_given_up_is_gone(talk: Talk) -> None:
    """Aborting is fine twice; nothing can be resumed or completed after it."""
    session_id = await talk.session()
    object_id, _ = await talk.registered(session_id)
    token = (await talk.ask("begin_object_upload", object_id=object_id)).ok()["token"]
    for _ in range(2):
        (await talk.ask("abort_object_upload", object_id=object_id, token=token)).ok()
    resumed = (await talk.ask("resume_object_upload", object_id=object_id, token=token)).ok()
    assert resumed == {"upload": None}
    done = await talk.ask(
        "complete_object_upload", object_id=object_id, token=token, size=0, etags=[], sizes=[]
    )
    done.refused(404, "not_found")
    (await talk.ask("forget_upload", object_id=object_id)).ok()
    begun = await talk.ask("begin_object_upload", object_id=object_id)
    begun.refused(404, "not_found")


async def test_only_what_is_being_written_can_be_put(talk: Talk) -> None:
    """Neither an object that nobody registered, nor one that is stored, nor one of a session that ended."""
    session_id = await talk.session()
    stored = await talk.stored(session_id, b"x")
    ended = await talk.session()
    orphan, _ = await talk.registered(ended)
    (await talk.ask("end_session", session_id=ended)).ok()
    for object_id, status, code in (
        (fresh_object(), 404, "not_found"),
        (stored, 404, "not_found"),
        (orphan, 409, "conflict"),
    ):
        said = await talk.ask("sign_urls", wanted=[{"object_id": object_id, "method": "PUT"}])
        said.refused(status, code)


async def test_delete_objects_leaves_what_is_stored(talk: Talk) -> None:
    """Only unfinished objects can be deleted, whatever is asked for."""
    session_id = await talk.session()
    stored = await talk.stored(session_id, b"stored")
    object_id, answer = await talk.registered(session_id, want_url=True)
    assert (await talk.send(answer["url"], b"unfinished")).status == 200
    (await talk.ask("delete_objects", object_ids=[stored, object_id])).ok()
    sizes = (await talk.ask("object_sizes", object_ids=[stored, object_id])).ok()["sizes"]
    assert sizes == {stored: 6}


async def test_an_upload_is_adopted_by_the_next_session(talk: Talk) -> None:
    """With the parts that were noted, once the session that began it is over."""
    first = await talk.session()
    object_id, _ = await talk.registered(first, token="t", resume_key="source")
    part = {"index": 0, "offset": 0, "length": 5, "digest": b64(digest(b"hello"))}
    (await talk.ask("note_parts", session_id=first, object_id=object_id, parts=[part])).ok()
    second = await talk.session()
    adopt = {"session_id": second, "resume_key": "source"}
    assert (await talk.ask("adopt_upload", **adopt)).ok() == {"upload": None}
    (await talk.ask("end_session", session_id=first)).ok()
    upload = (await talk.ask("adopt_upload", **adopt)).ok()["upload"]
    assert upload == {"object_id": object_id, "token": "t", "parts": [part]}


async def test_sessions_end_and_are_not_taken_over(talk: Talk) -> None:
    """The same begin again is the same session; another one with its id, or a verb after its end, is not."""
    session_id = await talk.session()
    begin = {"session_id": session_id, "entity": ENTITY}
    (await talk.ask("begin_session", **begin)).ok()
    (await talk.ask("renew_session", session_id=session_id)).ok()
    (await talk.ask("begin_session", **{**begin, "entity": "other"})).refused(409, "conflict")
    (await talk.ask("end_session", session_id=session_id)).ok()
    (await talk.ask("renew_session", session_id=session_id)).refused(409, "conflict")
    (await talk.ask("begin_session", **begin)).refused(409, "conflict")


async def test_runs_and_lineage(talk: Talk) -> None:
    run = {
        "id": "run1",
        "entity": ENTITY,
        "project": PROJECT,
        "name": "first",
        "job_type": None,
        "state": "running",
        "created_at": 1.0,
        "finished_at": None,
        "config": {"lr": 0.1},
    }
    (await talk.ask("create_run", run=run)).ok()
    (await talk.ask("create_run", run={**run, "project": "cars"})).refused(409, "conflict")
    session_id = await talk.session()
    version = (await talk.logged(session_id, b"out", run_id="run1"))["version"]
    other = (await talk.logged(session_id, b"in"))["version"]
    (await talk.ask("record_use", run_id="run1", version_id=other["id"])).ok()
    (await talk.ask("finish_run", run_id="run1", state="finished")).ok()
    found = (await talk.ask("get_run", run_id="run1")).ok()["run"]
    assert (found["state"], found["config"]) == ("finished", {"lr": 0.1})
    for question, expected in (("run_outputs", version), ("run_inputs", other)):
        versions = (await talk.ask(question, run_id="run1")).ok()["versions"]
        assert [each["id"] for each in versions] == [expected["id"]]
    for question, of in (("logged_by", version), ("used_by", other)):
        runs = (await talk.ask(question, version_id=of["id"])).ok()["runs"]
        assert [each["id"] for each in runs] == ["run1"]


async def test_lists_come_in_pages(talk: Talk) -> None:
    """The cursor of a page leads to the next one, and is null at the end."""
    session_id = await talk.session()
    for number in range(3):
        await talk.logged(session_id, b"%d" % number)
        await talk.logged(session_id, b"c%d" % number, collection=f"other{number}")
    numbers, after = [], None
    while True:
        more = {} if after is None else {"after": after}
        page = (await talk.ask("list_versions", **NAME, limit=2, **more)).ok()
        numbers.append([each["number"] for each in page["versions"]])
        if (after := page["next"]) is None:
            break
    assert numbers == [[2, 1], [0]]
    names, after = [], None
    while True:
        more = {} if after is None else {"after": after}
        page = (await talk.ask("list_collections", entity=ENTITY, limit=3, **more)).ok()
        names.append([each["name"] for each in page["collections"]])
        if (after := page["next"]) is None:
            break
    assert names == [["data", "other0", "other1"], ["other2"]]


async def test_aliases_and_updates(talk: Talk) -> None:
    session_id = await talk.session()
    first = (await talk.logged(session_id, b"1"))["version"]
    second = (await talk.logged(session_id, b"2"))["version"]
    move = {"version_id": second["id"], "alias": "prod"}
    (await talk.ask("set_alias", **move, if_current=0)).refused(409, "conflict")
    (await talk.ask("set_alias", **move, if_current=None)).ok()
    (await talk.ask("set_alias", version_id=first["id"], alias="prod", if_current=1)).ok()
    assert (await talk.ask("resolve", **NAME, selector="prod")).ok()["version"]["number"] == 0
    updated = await talk.ask(
        "update_version", version_id=first["id"], description=None, tags=["a"], ttl_s=60.0
    )
    assert updated.ok()["version"]["tags"] == ["a"]
    assert updated.body["version"]["ttl_s"] == 60.0
    (await talk.ask("remove_alias", **NAME, alias="prod")).ok()
    (await talk.ask("resolve", **NAME, selector="prod")).refused(404, "not_found")
    (await talk.ask("remove_alias", **NAME, alias="latest")).refused(422, "invalid")
    found = await talk.ask("find_version", **NAME, digest=digest(b"version of 1"))
    assert found.ok()["version"]["id"] == first["id"]
    missing = await talk.ask("find_version", **NAME, digest=digest(b"nothing"))
    assert missing.ok() == {"version": None}
    got = (await talk.ask("get_version", version_id=first["id"])).ok()["version"]
    assert got["number"] == 0


async def test_deleting_and_collecting(talk: Talk) -> None:
    """What was deleted is gone from the store after a collection, once no session may know of it."""
    session_id = await talk.session()
    for text in (b"1", b"2", b"3"):
        await talk.logged(session_id, text)
    version = (await talk.ask("resolve", **NAME, selector="v0")).ok()["version"]
    (await talk.ask("delete_version", version_id=version["id"])).ok()
    (await talk.ask("resolve", **NAME, selector="v0")).refused(404, "not_found")
    pruned = (await talk.ask("prune_versions", **NAME, keep_last=1, dry_run=True)).ok()
    assert [each["number"] for each in pruned["versions"]] == [1]
    pruned = (await talk.ask("prune_versions", **NAME, keep_last=1)).ok()
    assert [each["number"] for each in pruned["versions"]] == [1]
    gone = (await talk.ask("delete_collection", **NAME)).ok()
    assert [each["number"] for each in gone["versions"]] == [2]
    (await talk.ask("end_session", session_id=session_id)).ok()
    report = (await talk.ask("collect_garbage", dry_run=True)).ok()["report"]
    assert report["is_dry_run"] is True
    report = (await talk.ask("collect_garbage")).ok()["report"]
    assert report["deleted_objects"] == 6
    assert (await talk.context.store.list_page()).objects == []


async def test_a_batch_is_carried_out_in_order_until_one_fails(talk: Talk) -> None:
    """Each call by its own rules; what stands behind the first failure is not carried out."""
    session_id = os.urandom(16).hex()
    calls: list[dict[str, Any]] = [
        {"name": "begin_session", "request": {"session_id": session_id, "entity": ENTITY}},
        {"name": "stored_contents", "request": {"session_id": session_id, "digests": []}},
        {"name": "get_run", "request": {"run_id": "nope"}},
        {"name": "end_session", "request": {"session_id": session_id}},
    ]
    outcomes = (await talk.ask("batch", calls=calls)).ok()["outcomes"]
    assert [each["failure"] and each["failure"]["code"] for each in outcomes] == [
        None,
        None,
        "not_found",
    ]
    assert outcomes[1]["answer"] == {"contents": []}
    (await talk.ask("renew_session", session_id=session_id)).ok()
    inner = {"name": "batch", "request": {"calls": []}}
    outcomes = (await talk.ask("batch", calls=[inner])).ok()["outcomes"]
    assert outcomes[0]["failure"]["code"] == "invalid"
    too_many = await talk.ask("batch", calls=[calls[1]] * 65)
    too_many.refused(422, "invalid")


async def test_the_same_key_gives_the_first_answer_again(talk: Talk) -> None:
    """Also inside a batch; with another request, the key is refused."""
    session_id = await talk.session()
    object_id, _ = await talk.registered(session_id)
    key = {"Idempotency-Key": os.urandom(16).hex()}
    first = (await talk.ask("begin_object_upload", key, object_id=object_id)).ok()
    assert (await talk.ask("begin_object_upload", key, object_id=object_id)).ok() == first
    other, _ = await talk.registered(session_id)
    (await talk.ask("begin_object_upload", key, object_id=other)).refused(409, "conflict")
    calls = [{"name": "begin_object_upload", "request": {"object_id": object_id}}]
    key = {"Idempotency-Key": os.urandom(16).hex()}
    first = (await talk.ask("batch", key, calls=calls)).ok()
    assert first["outcomes"][0]["failure"] is None
    assert (await talk.ask("batch", key, calls=calls)).ok() == first


async def test_only_damage_is_believed(talk: Talk) -> None:
    """The server reads the object itself: a wrong word changes nothing, a right one does."""
    session_id = await talk.session()
    version = (await talk.logged(session_id, b"fine"))["version"]
    object_id = (
        await talk.ask("stored_contents", session_id=session_id, digests=[digest(b"fine")])
    ).ok()["contents"][0]["extents"][0][0]
    (await talk.ask("mark_damaged", object_ids=[object_id])).ok()
    got = (await talk.ask("get_version", version_id=version["id"])).ok()["version"]
    assert got["is_damaged"] is False
    key = f"objects/{object_id[-2:]}/{object_id}"
    await talk.context.store.delete([key])
    await talk.context.store.write(key, [memoryview(b"fini")])
    (await talk.ask("mark_damaged", object_ids=[object_id])).ok()
    got = (await talk.ask("get_version", version_id=version["id"])).ok()["version"]
    assert got["is_damaged"] is True
