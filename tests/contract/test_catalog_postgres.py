"""What only a PostgreSQL catalog can meet: a server that goes away, other users, its own schema rules."""

from __future__ import annotations

import shutil

import anyio
import anyio.lowlevel
import asyncpg
import pytest
from catalog_kinds import BIKES, Writer
from services import PostgresServer
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from asyncart.catalog import facts, open_catalog, schema, upgrade
from asyncart.catalog import postgres as postgres_module
from asyncart.catalog.postgres import PostgresDatabase
from asyncart.catalog.protocol import Retention
from asyncart.errors import Full, Invalid, NotFound, Unavailable


def layout(conn) -> dict[str, object]:
    """Every table with its columns, keys and indexes; and the triggers."""
    found = inspect(conn)
    triggers = "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
    return {"triggers": sorted(map(tuple, conn.execute(text(triggers))))} | {
        name: (
            [{**column, "type": str(column["type"])} for column in found.get_columns(name)],
            found.get_pk_constraint(name),
            found.get_foreign_keys(name),
            found.get_unique_constraints(name),
            found.get_indexes(name),
        )
        for name in sorted(found.get_table_names())
    }


async def test_migrations_lead_to_the_schema_of_a_new_catalog(postgres_url, postgres):
    """From nothing, step by step, to the same columns, keys, indexes and triggers."""
    catalog = await open_catalog(postgres_url)
    made = await catalog.database.read(layout)
    await catalog.aclose()
    postgres.execute("CREATE DATABASE migrated")
    try:
        database = PostgresDatabase(postgres.url("migrated"))
        await database.write_alone(schema.migrate)
        migrated = await database.read(layout)
        await database.aclose()
    finally:
        postgres.execute("DROP DATABASE migrated WITH (FORCE)")
    assert "versions" in made
    assert [name for name, _ in made["triggers"]] == ["audit_log_no_change"]
    assert migrated == made


NEXT_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "REVISION"


def upgrade() -> None:
    op.add_column("facts", sa.Column("note", sa.Text()))
"""


async def test_an_older_database_waits_for_upgrade(postgres_url, tmp_path, monkeypatch):
    """Others use it: it is refused, with what to do, until somebody decides to upgrade."""
    catalog = await open_catalog(postgres_url)
    await catalog.set_fact("k", "v")
    await catalog.aclose()
    migrations = shutil.copytree(schema.MIGRATIONS, tmp_path / "migrations")
    text_of_next = NEXT_REVISION.replace("REVISION", schema.REVISIONS[-1])
    (migrations / "versions" / "next.py").write_text(text_of_next)
    monkeypatch.setattr(schema, "MIGRATIONS", migrations)
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "next"))
    with pytest.raises(
        Unavailable, match=r"has the older schema [0-9]{4}, next is needed; upgrade it once"
    ):
        await open_catalog(postgres_url)
    for _ in range(2):
        await upgrade(postgres_url)
    catalog = await open_catalog(postgres_url)
    assert await catalog.get_fact("k") == "v"
    await catalog.aclose()
    monkeypatch.undo()
    with pytest.raises(Invalid, match=r"has schema next.*use a newer asyncart"):
        await open_catalog(postgres_url)


async def test_somebody_elses_database_is_left_alone(postgres_url):
    engine = create_async_engine(postgres_url.replace("postgresql", "postgresql+asyncpg"))
    async with engine.begin() as conn:
        await conn.execute(text("CREATE TABLE cookies (id integer)"))
    await engine.dispose()
    with pytest.raises(Invalid, match="is the database of something else"):
        await open_catalog(postgres_url)


async def test_wrong_urls_are_told_apart(postgres, monkeypatch):
    """No such database, no server, no database named; a password is never shown."""
    monkeypatch.setattr(postgres_module, "ATTEMPTS", 2)
    with pytest.raises(Invalid, match="no such database"):
        await open_catalog(postgres.url("missing"))
    with pytest.raises(Invalid, match="names no database"):
        await open_catalog("postgresql://test@127.0.0.1:1")
    with pytest.raises(Unavailable, match="is it up") as caught:
        await open_catalog("postgresql://test:secret-word@127.0.0.1:1/x")
    assert "secret-word" not in str(caught.value)
    assert "127.0.0.1:1/x" in str(caught.value)


async def test_connections_that_the_server_closed_are_replaced(
    postgres_url: str, postgres: PostgresServer
):
    """A restart of the server, or an idle limit, is not a user's business."""
    catalog = await open_catalog(postgres_url)
    writer = await Writer.begin(catalog)
    for number in range(3):
        database = postgres_url.rpartition("/")[2]
        postgres.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        )
        assert (await writer.log(f"{number}")).version.number == number
    assert (await catalog.resolve(BIKES, "latest")).number == 2
    await catalog.aclose()


@pytest.mark.parametrize("is_done", [True, False])
@pytest.mark.parametrize("whole", [True, False], ids=["collection", "pruned"])
async def test_a_deletion_whose_commit_is_not_answered(postgres_url, monkeypatch, whole, is_done):
    """Carried out once, whether the connection broke before the COMMIT arrived or after; and said so."""
    catalog = await open_catalog(postgres_url)
    writer = await Writer.begin(catalog)
    for number in range(3):
        await writer.log(f"{number}")
    execute, commits = asyncpg.Connection.execute, []

    async def unanswered(self, query, *args, **more):
        if query != "COMMIT" or commits.append(query) or len(commits) > 1:
            return await execute(self, query, *args, **more)
        if is_done:
            await execute(self, query, *args, **more)
        self.terminate()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle")

    monkeypatch.setattr(asyncpg.Connection, "execute", unanswered)
    if whole:
        gone = await catalog.delete_collection(BIKES)
        assert [version.number for version in gone] == [2, 1, 0]
        with pytest.raises(NotFound):
            await catalog.list_versions(BIKES)
    else:
        gone = await catalog.prune_versions(BIKES, Retention(keep_last=1))
        assert [version.number for version in gone] == [1, 0]
        assert [version.number for version in await catalog.list_versions(BIKES)] == [2]
    await catalog.aclose()


async def test_a_transaction_that_the_server_still_holds(postgres_url, monkeypatch):
    """Whether it will be carried out is asked for a while, and then nobody knows; behind it, it is known."""
    monkeypatch.setattr(postgres_module, "ATTEMPTS", 2)
    database = PostgresDatabase(postgres_url)
    engine = create_async_engine(postgres_url.replace("postgresql", "postgresql+asyncpg"))
    for is_done in (True, False):
        async with engine.connect() as conn:
            number = (await conn.execute(text("SELECT txid_current()"))).scalar_one()
            with pytest.raises(Unavailable, match="not known whether this was done"):
                await database._was_committed(number)
            await (conn.commit() if is_done else conn.rollback())
        assert await database._was_committed(number) is is_done
    await engine.dispose()
    await database.aclose()


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("55000", Unavailable, "is it up"),  # not in the state that this needs
        ("53300", Unavailable, "is it up"),  # too many connections
        ("57P03", Unavailable, "is it up"),  # it is starting
        ("53100", Full, "disk of the database is full"),
    ],
)
async def test_what_the_database_cannot_do_now(postgres_url, monkeypatch, state, kind, words):
    """An error of ours for each, and a connection that works afterwards; nothing was written."""
    monkeypatch.setattr(postgres_module, "ATTEMPTS", 2)
    catalog = await open_catalog(postgres_url)

    def refused(conn):
        facts.set_fact(conn, "k", "v")
        conn.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"))

    with pytest.raises(kind, match=words):
        await catalog.database.write(refused)
    assert await catalog.get_fact("k") is None
    assert catalog.database._engine().pool.checkedin() == 1
    await catalog.aclose()


async def test_a_database_that_takes_no_connections(
    postgres_url: str, postgres: PostgresServer
) -> None:
    """At once: whoever closed it knows why, and it is not over in a few seconds."""
    database = postgres_url.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    try:
        with pytest.raises(Unavailable, match="not currently accepting connections"):
            await open_catalog(postgres_url)
    finally:
        postgres.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")


async def test_the_lock_is_taken_with_the_transaction(postgres_url):
    """Beside a writer there are other writers; whoever wants to be alone waits for all of them."""
    catalog = await open_catalog(postgres_url)
    other = await open_catalog(postgres_url)
    held = "SELECT mode, granted FROM pg_locks WHERE locktype = 'advisory' ORDER BY mode"

    def modes(conn):
        return [tuple(row) for row in conn.execute(text(held))]

    assert await catalog.database.read(modes) == []
    assert await catalog.database.write(modes) == [("ShareLock", True)]
    assert await catalog.database.write_alone(modes) == [("ExclusiveLock", True)]
    assert await other.database.read(modes) == []  # nothing is left of them
    await other.aclose()
    await catalog.aclose()


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_a_cancelled_verb_leaves_no_connection_and_no_lock(postgres_url, steps):
    """Cancelled after any number of turns of the event loop: it happened entirely or not at all."""
    catalog = await open_catalog(postgres_url)
    writer = await Writer.begin(catalog)
    draft = await writer.draft("a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(catalog.commit_version, writer.session_id, draft)
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert catalog.database._engine().pool.checkedout() == 0
    with anyio.fail_after(10):
        committed = await catalog.commit_version(writer.session_id, draft)
    assert committed.version.number == 0
    assert len(await catalog.list_versions(BIKES)) == 1
    await catalog.aclose()


async def test_reads_see_one_moment_and_write_nothing(postgres_url):
    catalog = await open_catalog(postgres_url)
    with pytest.raises(Exception, match="read-only transaction"):
        await catalog.database.read(
            lambda conn: conn.execute(text("INSERT INTO facts VALUES ('k', 'v')"))
        )
    await catalog.set_fact("k", "v")  # the connection is writable again
    await catalog.aclose()
    with pytest.raises(Unavailable, match="was closed"):
        await catalog.get_fact("k")
