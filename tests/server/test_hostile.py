"""Requests that no honest client sends: each is refused by a Failure that says why, and none is a 5xx."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from talk import ENTITY, PROJECT, Talk, in_folder, served

from asyncart import wire
from asyncart.errors import Invalid
from asyncart.server import bodies, routing
from asyncart.server.decoding import MAX_DEPTH, MAX_LOOSE_VALUES, MAX_VALUES, Codec, parse

JSON = {"Content-Type": "application/json"}
BATCH = f"{wire.PREFIX}/batch"
SESSION = "0" * 32


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncIterator[Talk]:
    async with served(*in_folder(tmp_path)) as talk:
        yield talk


def session_path(session_id: str = SESSION) -> str:
    return f"{wire.PREFIX}/sessions/{session_id}"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "entity"),
        (b"nonsense", "JSON"),
        (b'{"entity": "a"', "JSON"),
        (b"[]", "one JSON object"),
        (b"null", "one JSON object"),
        (b"\xff\xfe{", "UTF-8"),
        ('{"entity": "a"}'.encode("utf-16"), "UTF-8"),
        (b'{"entity": "a", "entity": "a"}', "twice"),
        (b'{"entity": 1}', "entity"),
        (b'{"entity": null}', "entity"),
        (b'{"entity": "a", "other": 1}', "other"),
        (b'{"entity": "a", "session_id": "' + b"1" * 32 + b'"}', "another in the body"),
        (b'{"entity": NaN}', "NaN"),
        (b'{"entity": -Infinity}', "Infinity"),
        (b'{"entity": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"entity": ' + b"[" * 200 + b"]" * 200 + b"}", "deeper"),
        (b'{"entity": ' + b"[" * 20_000, "deeper"),
        (b'{"entity": "a\\u0000"}', "U+0000"),
        (b'{"entity": "a\\ud800"}', "U+D800"),
        (b'{"entity": "../etc"}', "entity"),
        (b'{"entity": ".."}', "directory"),
        (b'{"entity": "' + b"a" * 129 + b'"}', "too long"),
    ],
)
async def test_a_body_that_is_wrong_is_refused(talk: Talk, body: bytes, word: str) -> None:
    said = await talk.raw("PUT", session_path(), data=body, headers=JSON)
    assert word in said.refused(422, "invalid")


async def test_a_path_field_may_be_repeated_in_the_body(talk: Talk) -> None:
    """If it says the same."""
    body = json.dumps({"session_id": SESSION, "entity": "a"}).encode()
    (await talk.raw("PUT", session_path(), data=body, headers=JSON)).ok()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=utf-16"}, 415),
        ({**JSON, "Content-Encoding": "gzip"}, 415),
        ({**JSON, "Content-Encoding": "deflate, gzip"}, 415),
    ],
)
async def test_a_body_is_plain_json(talk: Talk, headers: dict[str, str], status: int) -> None:
    said = await talk.raw("PUT", session_path(), data=b'{"entity":"a"}', headers=headers)
    said.refused(status, "invalid")


async def test_a_gzip_bomb_is_never_opened(talk: Talk) -> None:
    """A megabyte of it would be a gigabyte."""
    bomb = gzip.compress(b" " * (16 << 20))
    headers = {**JSON, "Content-Encoding": "gzip"}
    (await talk.raw("POST", BATCH, data=bomb, headers=headers)).refused(415, "invalid")


async def test_a_body_beyond_the_limit_is_refused(talk: Talk) -> None:
    """By its announced length, and by its bytes where it announces none."""
    body = b'{"entity": "' + b"a" * routing.BODY_BYTES + b'"}'
    said = await talk.raw("PUT", session_path(), data=body, headers=JSON)
    said.refused(413, "invalid")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (routing.BODY_BYTES // 2)

    said = await talk.raw("PUT", session_path(), data=chunks(), headers=JSON)
    said.refused(413, "invalid")


async def test_a_get_has_no_body_and_knows_its_parameters(talk: Talk) -> None:
    said = await talk.raw("GET", f"{wire.PREFIX}/me", data=b"{}", headers=JSON)
    said.refused(413, "invalid")
    for query in ("entity=a", "x=1", "limit=1&limit=1"):
        (await talk.raw("GET", f"{wire.PREFIX}/me?{query}")).refused(422, "invalid")
    lists = f"{wire.PREFIX}/entities/a/collections"
    for query in ("limit=0", "limit=1001", "limit=x", "limit=", "entity=b", "urls=1"):
        (await talk.raw("GET", f"{lists}?{query}")).refused(422, "invalid")
    said = await talk.raw("DELETE", f"{session_path()}?session_id={SESSION}")
    said.refused(422, "invalid")


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "%2e%2e",
        "..%2F..%2Fetc",
        "a%00b",
        "a%0Ab",
        "%FF",
        "%ED%A0%80",
        quote("ä" * 200),
        "a b",
        "x" * 3000,
        "%",
        "%zz",
    ],
)
async def test_a_hostile_name_in_the_path_is_refused(talk: Talk, name: str) -> None:
    """As a name that cannot be, or as a path that is not there; never with a 5xx, never elsewhere."""
    for path in (
        f"/projects/{name}/p/collections/c/versions",
        f"/projects/e/{name}/collections/c/versions/latest",
        f"/projects/e/p/collections/{name}/versions/latest",
        f"/projects/e/p/collections/c/versions/{name}",
        f"/runs/{name}",
        f"/versions/{name}",
    ):
        said = await talk.raw("GET", wire.PREFIX + path)
        assert said.status in (400, 404, 422), (path, said)


async def test_selectors_are_versions_or_aliases(talk: Talk) -> None:
    base = f"{wire.PREFIX}/projects/{ENTITY}/{PROJECT}/collections/data/versions/"
    for selector, status in (
        ("v0", 404),
        ("v99999999999999999999999", 422),
        ("v00", 422),
        ("latest", 404),
        ("find", 404),
        (quote("ü ö"), 404),
        (quote("a:b"), 422),
        (quote(" a"), 422),
        ("' OR 1=1 --".replace(" ", "%20"), 404),
    ):
        assert (await talk.raw("GET", base + selector)).status == status, selector


@pytest.mark.parametrize(
    ("name", "fields", "word"),
    [
        ("stored_contents", {"digests": ["AAAA"]}, "32 bytes"),
        ("stored_contents", {"digests": ["not base64!"]}, "stored_contents"),
        ("stored_contents", {"digests": ["A" * 43 + "="] * 10_001}, "10000 can be"),
        ("register_upload", {"object_id": "0" * 31}, "no id"),
        ("register_upload", {"object_id": "0" * 31 + "G"}, "no id"),
        ("register_upload", {"object_id": "0" * 32, "token": "a\x00"}, "U+0000"),
        ("register_upload", {"object_id": "0" * 32, "token": "a" * 1025}, "1024 can be"),
        ("note_parts", {"object_id": "0" * 32, "parts": [{"index": -1}]}, "note_parts"),
        (
            "note_parts",
            {
                "object_id": "0" * 32,
                "parts": [{"index": 10_000, "offset": 0, "length": 0, "digest": "A" * 43 + "="}],
            },
            "parts 0 to",
        ),
        (
            "add_stored",
            {"objects": [{"object_id": "0" * 32, "size": -1}], "contents": []},
            "0 to 2**53",
        ),
        (
            "add_stored",
            {"objects": [{"object_id": "0" * 32, "size": 1 << 60}], "contents": []},
            "0 to 2**53",
        ),
        ("add_stored", {"objects": [{"object_id": "0" * 32, "size": 1.5}]}, "add_stored"),
        (
            "add_stored",
            {"objects": [{"object_id": "0" * 32, "size": 1}] * 1001, "contents": []},
            "1000 can be",
        ),
    ],
)
async def test_a_value_that_cannot_be_is_refused(
    talk: Talk, name: str, fields: dict[str, Any], word: str
) -> None:
    session_id = await talk.session()
    said = await talk.ask(name, session_id=session_id, **fields)
    assert word in said.refused(422, "invalid")


async def test_metadata_has_the_rules_of_the_library(talk: Talk) -> None:
    """The client has checked it; the server does not rely on that."""
    deep: Any = "x"
    for _ in range(70):
        deep = [deep]
    for metadata in ({"a": deep}, {str(key): 0 for key in range(101)}, {"a": "\x00"}):
        said = await talk.ask("update_version", version_id="v", metadata=metadata)
        said.refused(422, "invalid")
    said = await talk.raw(
        "PATCH",
        f"{wire.PREFIX}/versions/v",
        data=b'{"metadata": {"a": 1e999}}',
        headers=JSON,
    )
    said.refused(422, "invalid")


async def test_what_is_not_there_is_a_failure_too(talk: Talk) -> None:
    """404 and 405 say it in the same words as every other error."""
    (await talk.raw("GET", "/nope")).refused(404, "not_found")
    (await talk.raw("GET", f"{wire.PREFIX}/")).refused(404, "not_found")
    said = await talk.raw("PUT", f"{wire.PREFIX}/me")
    said.refused(405, "invalid")
    assert said.headers["Allow"] == "GET"
    for method in ("HEAD", "OPTIONS", "TRACE"):
        assert (await talk.raw(method, f"{wire.PREFIX}/me")).status == 405


async def test_the_request_id_is_taken_over_if_it_is_harmless(talk: Talk) -> None:
    for said, is_kept in (("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ("ü", False)):
        answer = await talk.raw("GET", f"{wire.PREFIX}/me", headers={"X-Request-Id": said})
        assert (answer.headers["X-Request-Id"] == said) is is_kept
        assert answer.headers["Cache-Control"] == "no-store"


async def test_a_mistake_of_ours_tells_nothing(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets the id of its request, the log gets the traceback; in a batch as well."""

    async def fails(run_id: str) -> None:
        raise RuntimeError("the secret is 1234")

    monkeypatch.setattr(talk.context.catalog, "get_run", fails)
    said = await talk.ask("get_run", run_id="r")
    message = said.refused(500, "error")
    assert "1234" not in json.dumps(said.body)
    assert said.headers["X-Request-Id"] in message
    assert "the secret is 1234" in caplog.text
    call = {"name": "get_run", "request": {"run_id": "r"}}
    outcome = (await talk.ask("batch", calls=[call])).ok()["outcomes"][0]
    assert outcome["failure"]["code"] == "error"
    assert "1234" not in json.dumps(outcome)


async def test_a_call_of_a_batch_is_checked_like_any_other(talk: Talk) -> None:
    for call, word in (
        ({"name": "nope", "request": {}}, "nope"),
        ({"name": "renew_session", "request": []}, "one JSON object"),
        ({"name": "renew_session", "request": {"session_id": "x"}}, "no id"),
        ({"name": "renew_session", "request": {"session_id": SESSION, "y": 1}}, "y"),
    ):
        outcome = (await talk.ask("batch", calls=[call])).ok()["outcomes"][0]
        assert outcome["failure"]["code"] == "invalid"
        assert word in outcome["failure"]["message"]
    twice = b'{"calls":[{"name":"renew_session","request":{"session_id":"x","session_id":"x"}}]}'
    outcome = await talk.raw("POST", BATCH, data=twice, headers=JSON)
    assert "twice" in json.dumps(outcome.body)


async def test_a_body_that_never_comes_ends(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that announces a body and says nothing more is answered, and hung up on."""
    monkeypatch.setattr(bodies, "STALL_S", 0.05)
    host, port = talk.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /api/v1/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 10\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    writer.close()
    await writer.wait_closed()


AMBIGUOUS = {
    "two ways to say the length": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "the same length twice": b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a signed length": b"Content-Length: +4\r\n\r\nabcd",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n",
    "a coding behind chunks": b"Transfer-Encoding: chunked, identity\r\n\r\n",
    "a chunk of negative length": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a space before the colon": b"X : a\r\n\r\n",
    "a folded line": b"X: a\r\n b\r\n\r\n",
    "a second host": b"Host: elsewhere\r\n\r\n",
    "a NUL": b"X: a\x00b\r\n\r\n",
    "lines that end otherwise": b"X: a\nY: b\n\n",
}


async def answers_to(talk: Talk, request: bytes) -> list[int]:
    """The statuses of all answers until the server hangs up."""
    host, port = talk.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    with anyio.fail_after(20):
        said = await reader.read()
    writer.close()
    await writer.wait_closed()
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", said)]


@pytest.mark.parametrize("rest", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_what_could_be_read_in_two_ways_ends_the_connection(talk: Talk, rest: bytes) -> None:
    """A proxy before us may have read it the other way: what follows is nobody's request."""
    head = b"POST /api/v1/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    following = b"GET /api/v1/me HTTP/1.1\r\nHost: x\r\n\r\n"
    assert await answers_to(talk, head + rest + following) == [400]


async def test_a_body_is_no_further_request(talk: Talk) -> None:
    """Not even one that is refused unread."""
    inner = b"GET /api/v1/me HTTP/1.1\r\nHost: x\r\n\r\n"
    head = f"GET /api/v1/me HTTP/1.1\r\nHost: x\r\nContent-Length: {len(inner)}\r\n\r\n"
    last = b"GET /api/v1/nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert await answers_to(talk, head.encode() + inner + last) == [413, 404]


async def test_a_head_that_is_too_large_is_refused(talk: Talk) -> None:
    """Before anything of ours sees it."""
    said = await talk.raw("GET", f"{wire.PREFIX}/me", headers={"X-Large": "x" * 20_000})
    assert said.status == 400
    many = {f"X-{number}": "1" for number in range(100)}
    assert (await talk.raw("GET", f"{wire.PREFIX}/me", headers=many)).status == 400


# without a server: the two ways of reading a body agree


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_depth_is_limited_exactly(depth: int) -> None:
    body = b"[" * depth + b"]" * depth
    if depth <= MAX_DEPTH:
        assert parse(body) is not None
    else:
        with pytest.raises(Invalid, match="deeper"):
            parse(body)


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"1,", b'"",', b'{"":0},'])
def test_few_bytes_do_not_become_much_memory(piece: bytes) -> None:
    """Whatever route they are for, and whichever way they are read."""
    codec = Codec.of(wire.ROUTES["update_version"])
    for most, prefix, suffix in (
        (MAX_VALUES, b'{"metadata":{"a":[', b"0]}}"),
        (MAX_LOOSE_VALUES, b' {"metadata": {"a": [', b"0]}}"),
    ):
        signs = sum(map(piece.count, b",[{"))
        body = prefix + piece * (most // signs) + suffix
        with pytest.raises(Invalid, match=f"more than {most} values"):
            codec.from_body({"version_id": "v"}, body)
        with pytest.raises(Invalid, match=f"more than {most} values"):
            codec.from_call(body)
    few = b'{"metadata":{"a":[' + piece * 1000 + b"0]}}"
    assert len(codec.from_body({"version_id": "v"}, few).metadata["a"]) == 1001  # type: ignore[attr-defined]


async def test_a_call_of_a_batch_has_the_limit_of_its_route(talk: Talk) -> None:
    """A batch may be larger than each of its calls."""
    for name, limit in (("begin_session", routing.BODY_BYTES), ("get_run", routing.BODY_BYTES)):
        request = b'{"run_id":"' + b"a" * limit + b'"}'
        body = b'{"calls":[{"name":"' + name.encode() + b'","request":' + request + b"}]}"
        said = await talk.raw("POST", BATCH, data=body, headers=JSON)
        failure = said.ok()["outcomes"][0]["failure"]
        assert f"more than {limit} bytes" in failure["message"]


def test_both_ways_of_reading_a_body_say_the_same() -> None:
    """As our client writes it, and as anybody else may."""
    codec = Codec.of(wire.ROUTES["commit_version"])
    fields = {
        "draft_id": "d", "entity": "e", "project": "p", "collection": "c", "type": "t",
        "digest": "A" * 43 + "=", "size": 1, "entry_count": 1, "manifest": None,
        "object_ids": [], "description": "ä", "metadata": {"a": [1, 2.5, None]}, "aliases": [],
        "tags": [], "run_id": None, "ttl_s": None,
    }  # fmt: skip
    canonical = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    loose = json.dumps(dict(reversed(fields.items())), indent=1).encode()
    path = {"session_id": SESSION}
    assert codec.from_body(path, canonical) == codec.from_body(path, loose)


def test_every_route_has_a_handler_and_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is not complete is found when the application is made."""
    assert routing.endpoints().keys() == wire.ROUTES.keys()
    monkeypatch.delitem(routing.HANDLERS, "get_run")
    with pytest.raises(RuntimeError, match="without a handler: get_run"):
        routing.endpoints()
    monkeypatch.undo()
    monkeypatch.delitem(routing.POLICIES, "get_run")
    with pytest.raises(RuntimeError, match="without a policy: get_run"):
        routing.endpoints()


async def test_a_store_that_nobody_could_reach_is_refused(tmp_path: Path) -> None:
    """Objects in the memory of the server have no URLs."""
    with pytest.raises(Invalid, match="neither a bucket nor a folder"):
        async with served(str(tmp_path / "catalog.sqlite"), "memory://x"):
            pass


def test_a_handler_has_a_route_of_its_own() -> None:
    for name, why in (("nope", "no route"), ("get_run", "already")):
        with pytest.raises(RuntimeError, match=why):
            routing.handler(name)(_never)


async def _never(caller: Any, request: Any) -> Any:
    raise AssertionError(os.getpid())
