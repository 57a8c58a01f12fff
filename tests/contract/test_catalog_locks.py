"""Two transactions of a PostgreSQL catalog at once: one has done its work, and the other comes before it commits.

With SQLite there is one writer at a time, so that none of this can happen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from catalog_kinds import BIKES, Writer, expire, fresh_object, part
from sqlalchemy import func, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from asyncart.catalog import bulk, commits, deletion, open_catalog, sessions
from asyncart.catalog.protocol import CollectionName, StoredObject
from asyncart.catalog.sql import SqlCatalog
from asyncart.catalog.tables import objects, upload_parts
from asyncart.errors import Conflict, NotFound

CARS = CollectionName("me", "cars", "car-data")
PATIENCE_S = 20.0  # what hangs is broken

Verb = Callable[[], Awaitable[Any]]


@pytest.fixture
async def catalog(postgres_url: str) -> AsyncIterator[SqlCatalog]:
    catalog = await open_catalog(postgres_url)
    assert isinstance(catalog, SqlCatalog)
    yield catalog
    await catalog.aclose()


@asynccontextmanager
async def uncommitted(
    catalog: SqlCatalog, work: Callable[..., Any], *args: Any, **more: Any
) -> AsyncIterator[None]:
    """Inside, the work is done and not committed; behind, it is."""
    is_done, may_commit = anyio.Event(), anyio.Event()

    def held(conn: Connection) -> None:
        work(conn, *args, **more)
        is_done.set()
        await_only(may_commit.wait())

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(catalog.database.write, held)
            await is_done.wait()
            yield
            may_commit.set()


async def is_waiting(catalog: SqlCatalog) -> None:
    """Until some transaction waits for a lock of another one."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    while not await catalog.database.read(lambda conn: conn.execute(query).scalar_one()):
        await anyio.lowlevel.checkpoint()


async def after(
    catalog: SqlCatalog, verb: Verb, work: Callable[..., Any], *args: Any, **more: Any
) -> Any:
    """What becomes of a verb that waits for this work."""
    outcome: list[Any] = []

    async def run() -> None:
        try:
            outcome.append(await verb())
        except (Conflict, NotFound) as error:
            outcome.append(type(error))

    async with anyio.create_task_group() as tasks, uncommitted(catalog, work, *args, **more):
        tasks.start_soon(run)
        await is_waiting(catalog)
    return outcome[0]


async def parts(catalog: SqlCatalog) -> int:
    counted = select(func.count()).select_from(upload_parts)
    return await catalog.database.read(lambda conn: conn.execute(counted).scalar_one())


async def upload(catalog: SqlCatalog, writer: Writer) -> str:
    object_id = fresh_object()
    await catalog.register_upload(writer.session_id, object_id, "token", "source")
    return object_id


async def test_a_part_that_is_noted_while_its_upload_is_forgotten(catalog):
    writer = await Writer.begin(catalog)
    object_id = await upload(catalog, writer)
    late = await after(
        catalog,
        lambda: catalog.note_parts(object_id, [part(0)]),
        sessions.forget_upload,
        object_id,
    )
    assert late is NotFound
    assert await parts(catalog) == 0


async def test_an_upload_that_is_forgotten_while_a_part_is_noted(catalog):
    """The part goes with it."""
    writer = await Writer.begin(catalog)
    object_id = await upload(catalog, writer)
    await after(
        catalog,
        lambda: catalog.forget_upload(object_id),
        sessions.note_parts,
        object_id,
        [part(0)],
    )
    assert await parts(catalog) == 0


async def test_an_upload_that_is_being_adopted_is_nobody_else_s(catalog):
    """Neither before that is committed nor after it."""
    writer = await Writer.begin(catalog)
    await upload(catalog, writer)
    await expire(catalog, writer.session_id)
    one, other = await Writer.begin(catalog), await Writer.begin(catalog)
    async with uncommitted(catalog, sessions.adopt_upload, one.session_id, "source"):
        assert await catalog.adopt_upload(other.session_id, "source") is None
    assert await catalog.adopt_upload(other.session_id, "source") is None


async def test_an_object_that_is_taken_over_while_it_is_said_to_be_stored(catalog):
    """It is the new writer's: the old one is told."""
    writer = await Writer.begin(catalog)
    object_id = await upload(catalog, writer)
    other = await Writer.begin(catalog)
    stored = StoredObject(object_id, 5)
    number = select(objects.c.id).where(objects.c.object_id == object_id)

    def adopt(conn: Connection) -> None:
        session = sessions.live(conn, other.session_id)
        conn.execute(number.with_for_update())
        conn.execute(objects.update().values(session_id=session.id))

    late = await after(catalog, lambda: catalog.add_stored(writer.session_id, [stored], []), adopt)
    assert late is Conflict


async def test_a_version_that_somebody_else_deletes_is_deleted(catalog):
    """As if the second one had come a moment later."""
    writer = await Writer.begin(catalog)
    version = (await writer.log("a")).version
    again = await after(
        catalog,
        lambda: catalog.delete_version(version.id),
        deletion.delete_version,
        version.id,
        delete_aliases=False,
    )
    assert again is None


async def test_a_draft_is_committed_to_one_collection(catalog):
    """Also when two commits of it come at once."""
    writer = await Writer.begin(catalog)
    first = await writer.draft("a", id="same")
    second = await writer.draft("a", id="same", name=CARS)
    late = await after(
        catalog,
        lambda: catalog.commit_version(writer.session_id, second),
        commits.commit_version,
        writer.session_id,
        first,
    )
    assert late is Conflict
    with pytest.raises(NotFound):
        await catalog.resolve(CARS, "latest")


async def test_commits_that_share_objects_do_not_wait_for_each_other(catalog):
    """Once a version owns the objects: a thousand versions may reach into one pack."""
    writer = await Writer.begin(catalog)
    pack = await writer.store("a", "b", "c")
    await writer.log("a", "b", "c", objects=[pack])
    first = await writer.draft("a", objects=[pack])
    second = await writer.draft("b", objects=[pack], name=CARS)
    async with uncommitted(catalog, commits.commit_version, writer.session_id, first):
        assert (await catalog.commit_version(writer.session_id, second)).is_new


async def test_two_versions_that_shared_a_damaged_object_are_healed_at_once(catalog):
    """Each keeps the other's new object alive; both say so."""
    writer = await Writer.begin(catalog)
    bad = await writer.store("a", "b")
    await writer.log("a", objects=[bad])
    await writer.log("b", objects=[bad], name=CARS)
    await catalog.mark_damaged([bad])
    good = await writer.store("a", "b", "c")
    await writer.log("a", "b", "c", objects=[good])
    first = await writer.draft("a", objects=[good])
    second = await writer.draft("b", objects=[good], name=CARS)
    healed = await after(
        catalog,
        lambda: catalog.commit_version(writer.session_id, second),
        commits.commit_version,
        writer.session_id,
        first,
    )
    assert not healed.version.is_damaged
    assert not (await catalog.resolve(BIKES, "latest")).is_damaged


async def test_an_upload_that_is_forgotten_while_it_is_registered_again(catalog, monkeypatch):
    """Between finding it there and reading whose it is."""
    writer = await Writer.begin(catalog)
    monkeypatch.setattr(bulk, "insert_if_new", lambda *_: False)
    with pytest.raises(Conflict, match="fresh object id"):
        await catalog.register_upload(writer.session_id, fresh_object())
