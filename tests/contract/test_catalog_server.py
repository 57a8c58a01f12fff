"""The catalog of a server keeps the catalog's promises: the same suite, over HTTP.

Once over one server with an SQLite file, and once over two with a PostgreSQL database in common, of which
each one gets every other request: neither knows anything that the other does not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest
import test_catalog as suite
from catalog_kinds import BIKES, Writer, digest, run, writer
from served import EagerCatalog, EagerClient, in_turn, serving

from asyncart import wire
from asyncart.catalog import open_catalog, sessions
from asyncart.catalog.http import HttpCatalog
from asyncart.catalog.sql import SqlCatalog
from asyncart.errors import Conflict, Invalid, NotFound
from asyncart.net.control import ServerClient
from asyncart.stores.local import LocalStore

__all__ = ["writer"]  # a fixture

NOT_HERE = {
    # there is no database on this side
    "test_facts_and_versions_outlive_the_process",
    # the server checks names and metadata as the API does before it asks a catalog
    "test_a_missing_alias_says_what_there_is",
    "test_a_run_is_created_once_and_read_back",
    "test_the_first_version_is_v0",
}

for _name in dir(suite):
    if _name.startswith("test_") and _name not in NOT_HERE:
        globals()[_name] = getattr(suite, _name)


@pytest.fixture(params=["one", "two"])
async def replicas(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[list[SqlCatalog]]:
    """What each server has opened."""
    url, count = f"sqlite:///{tmp_path}/catalog.db", 1
    if request.param == "two":
        url, count = request.getfixturevalue("postgres_url"), 2
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(count):
            catalog = await open_catalog(url)
            assert isinstance(catalog, SqlCatalog)
            stack.push_async_callback(catalog.aclose)
            opened.append(catalog)
        yield opened


@pytest.fixture
async def origin(replicas: list[SqlCatalog], tmp_path: Path) -> AsyncIterator[str]:
    store = LocalStore(str(tmp_path / "store"))
    async with AsyncExitStack() as stack:
        origins = [
            await stack.enter_async_context(serving(catalog, store, checks_sizes=False))
            for catalog in replicas
        ]
        if len(origins) == 1:
            yield origins[0]
        else:
            yield await stack.enter_async_context(in_turn(origins))


@pytest.fixture
async def catalog(replicas: list[SqlCatalog], origin: str) -> AsyncIterator[EagerCatalog]:
    catalog = EagerCatalog(EagerClient(origin), replicas[0])
    yield catalog
    await catalog.aclose()


@pytest.fixture
async def served(origin: str) -> AsyncIterator[HttpCatalog]:
    """The catalog as it is used: what nobody waits for is deferred."""
    catalog = HttpCatalog(ServerClient(origin))
    yield catalog
    await catalog.aclose()


async def test_a_version_comes_back_as_it_was_logged(catalog: EagerCatalog) -> None:
    """With everything that was said about it, under every way to ask for it."""
    metadata = {"rows": 17379, "z": None, "a": [1.5, "\u00e9\U0001f600"]}
    config = {"lr": 0.1, "deep": {"a": [1, None, "x\ny"]}, "big": 2**63}
    info = run("r1", job_type="train", config=config)
    await catalog.create_run(info)
    await catalog.create_run(run("r1", name="other"))
    assert await catalog.get_run("r1") == info
    writer = await Writer.begin(cast(SqlCatalog, catalog))
    more = {"aliases": ("best",), "tags": ("t",), "description": "d", "run_id": "r1"}
    version = (await writer.log("a", "bb", metadata=metadata, **more)).version
    assert (version.metadata, list(version.metadata)) == (metadata, list(metadata))
    assert (version.aliases, version.tags) == (("best", "latest"), ("t",))
    for selector in ("v0", "latest", "best"):
        assert await catalog.resolve(BIKES, selector) == version
    assert await catalog.get_version(version.id) == version
    assert await catalog.find_version(BIKES, version.digest) == version
    assert await catalog.run_outputs("r1") == [version]
    assert await catalog.logged_by(version.id) == [info]


async def test_a_missing_alias_says_what_there_is_here_too(catalog: EagerCatalog) -> None:
    """The server's words, and which request it was."""
    writer = await Writer.begin(cast(SqlCatalog, catalog))
    await writer.log("a")
    with pytest.raises(
        NotFound, match="bike-data has no alias 'best'; it has: latest, v0"
    ) as caught:
        await catalog.resolve(BIKES, "best")
    assert any("request" in note for note in caught.value.__notes__)


async def test_what_nobody_waits_for_takes_no_request(served: HttpCatalog) -> None:
    """Beginning, storing, committing and ending: two registrations and the commit are all that is sent."""
    writer = await Writer.begin(cast(SqlCatalog, served))
    committed = await writer.log("hello", "world")
    await writer.end()
    assert committed.is_new
    assert served.client.requests == 3
    assert (await served.resolve(BIKES, "latest")).number == 0
    assert served.client.requests == 4  # with the end of the session


async def test_a_session_that_asked_for_nothing_is_never_heard_of(served: HttpCatalog) -> None:
    session_id = await served.begin_session("me")
    await served.end_session(session_id)
    await served.aclose()
    assert served.client.requests == 0


async def test_what_was_deferred_and_refused_is_raised_by_the_call_that_carries_it(
    served: HttpCatalog,
) -> None:
    writer = await Writer.begin(cast(SqlCatalog, served))
    draft = await writer.draft("hello")
    await served.add_stored(writer.session_id, [suite.StoredObject("f" * 32, 5)], [])
    with pytest.raises(Conflict):
        await served.commit_version(writer.session_id, draft)
    with pytest.raises(NotFound):
        await served.resolve(BIKES, "latest")
    # It was said once; what is left of the session works.
    assert (await served.commit_version(writer.session_id, draft)).is_new


async def test_what_was_deferred_and_refused_is_raised_by_the_end_of_the_session(
    served: HttpCatalog, replicas: list[SqlCatalog]
) -> None:
    """Which is over nevertheless, as soon as anything else is said."""
    database = replicas[0].database
    writer = await Writer.begin(cast(SqlCatalog, served))
    assert await writer.stored("hello") == {}
    await served.add_stored(writer.session_id, [suite.StoredObject("f" * 32, 5)], [])
    with pytest.raises(Conflict):
        await writer.end()
    assert await database.read(sessions.count_living) == 1
    assert await served.find_version(BIKES, digest("hello")) is None
    assert await database.read(sessions.count_living) == 0


async def test_a_session_ends_with_what_was_deferred_in_it(
    served: HttpCatalog, replicas: list[SqlCatalog]
) -> None:
    """In one request, and nothing is left to say."""
    writer = await Writer.begin(cast(SqlCatalog, served))
    await writer.store("hello")
    requests = served.client.requests
    await writer.end()
    assert await replicas[0].database.read(sessions.count_living) == 0
    await served.aclose()
    assert served.client.requests == requests + 1


async def test_a_long_question_is_split(
    served: HttpCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three requests where a question has three times what the server takes; every answer arrives."""
    writer = await Writer.begin(cast(SqlCatalog, served))
    await writer.store("a", "b", "c")
    await writer.stored()
    monkeypatch.setattr(wire, "MAX_DIGESTS", 2)
    before = served.client.requests
    asked = [digest(text) for text in ("a", "x", "b", "y", "c")]
    assert set(await served.stored_contents(writer.session_id, asked)) == set(asked[::2])
    assert served.client.requests == before + 3


async def test_pages_are_followed(served: HttpCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = await Writer.begin(cast(SqlCatalog, served))
    for text in "abcde":
        await writer.log(text)
    monkeypatch.setattr(wire, "MAX_PAGE", 2)
    numbers = [version.number for version in await served.list_versions(BIKES)]
    assert numbers == [4, 3, 2, 1, 0]
    assert [v.number for v in await served.list_versions(BIKES, after=3, limit=2)] == [2, 1]


async def test_what_only_the_owner_of_the_database_does_is_refused(served: HttpCatalog) -> None:
    with pytest.raises(Invalid, match="by the server itself"):
        await served.collect()
