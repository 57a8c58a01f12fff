"""Catalogs of earlier versions get the tables of accounts, and keep what is in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from asyncart.catalog import schema, upgrade
from asyncart.catalog.opening import open_catalog, open_database
from asyncart.catalog.protocol import CollectionName
from asyncart.catalog.sqlite import SqliteDatabase
from asyncart.catalog.transactions import Database
from asyncart.model import RunState
from asyncart.server.accounts import Accounts, ensure_admin

# One row of everything that the first schema knows, as its own code wrote it.
ROWS = (
    "INSERT INTO entities (id, name) VALUES (7, 'me')",
    "INSERT INTO runs (id, entity, project, name, state, created_at, config)"
    " VALUES ('r1', 'me', 'bikes', 'r1', 'finished', 1.0, '{}')",
    "INSERT INTO collections (id, entity, project, name, type, next_number, created_at, updated_at)"
    " VALUES (3, 'me', 'bikes', 'bike-data', 'dataset', 1, 1.0, 1.0)",
    "INSERT INTO versions (id, public_id, collection_id, number, digest, size, entry_count,"
    " manifest_object_id, manifest_size, footer_bytes, footer_digest, metadata, tags, created_at,"
    " updated_at) VALUES (5, 'v', 3, 0, {digest}, 5, 1, 'm', 10, 5, {digest}, '{{}}', '[]', 1.0, 1.0)",
    "INSERT INTO aliases (collection_id, alias, version_id) VALUES (3, 'latest', 5)",
    "INSERT INTO lineage (id, run_id, version_id, direction) VALUES (1, 'r1', 5, 1)",
    "INSERT INTO sessions (id, public_id, entity_id, owner, expires_at)"
    " VALUES (9, 'live', 7, '', 1e12)",
    "INSERT INTO objects (id, object_id, entity_id, state, size, session_id, token, resume_key)"
    " VALUES (4, 'o', 7, 0, 0, 9, 't', 'source')",
)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "catalog.db")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """Of a catalog that nobody has opened yet."""
    opened = open_database(url)
    if isinstance(opened, SqliteDatabase):
        await opened.make_file()
    yield opened
    await opened.aclose()


def filled(revision: str) -> Callable[[Connection], None]:
    def work(conn: Connection) -> None:
        schema.migrate(conn, revision)
        digest = "decode(repeat('61', 32), 'hex')"
        if conn.dialect.name == "sqlite":
            digest = f"x'{'61' * 32}'"
        for statement in ROWS:
            done = statement.format(digest=digest) if "{digest}" in statement else statement
            conn.execute(text(done.replace(":", r"\:")))

    return work


@pytest.mark.parametrize("revision", schema.REVISIONS[: schema.REVISIONS.index("0003")])
async def test_an_older_catalog_is_upgraded_with_what_is_in_it(url, database, revision) -> None:
    """From every schema before: runs, versions, lineage, and a session with its upload under way."""
    await database.write_alone(filled(revision))
    await upgrade(url)
    catalog = await open_catalog(url, may_upgrade=False)
    name = CollectionName("me", "bikes", "bike-data")
    version = await catalog.resolve(name, "latest")
    assert (version.number, version.digest) == (0, b"a" * 32)
    assert (await catalog.get_run("r1")).state is RunState.FINISHED
    assert [run.id for run in await catalog.logged_by(version.id)] == ["r1"]
    await catalog.renew_session("live")
    await catalog.end_session("live")
    following = await catalog.begin_session("me")
    upload = await catalog.adopt_upload(following, "source")
    assert upload is not None
    assert upload.object_id == "o"
    assert await ensure_admin(Accounts(catalog.database)) is not None
    await catalog.aclose()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET action = 'x'",
        "DELETE FROM audit_log",
        "DELETE FROM audit_log WHERE id = 1",
    ],
)
async def test_a_migrated_audit_log_is_append_only(database, statement) -> None:
    row = (
        'INSERT INTO audit_log (at, user_id, "user", key_id, request_id, action, subject, detail)'
        " VALUES (1.0, 1, 'u', 'k', 'r', 'a', 's', '{}')"
    )
    await database.write_alone(schema.migrate)
    await database.write(lambda conn: conn.execute(text(row)) and None)
    with pytest.raises(Exception, match="append-only"):
        await database.write(lambda conn: conn.execute(text(statement)) and None)
    count = await database.read(
        lambda conn: conn.execute(text("SELECT count(*) FROM audit_log")).scalar_one()
    )
    assert count == 1


async def test_nobody_empties_a_postgres_audit_log(postgres_url) -> None:
    catalog = await open_catalog(postgres_url, may_upgrade=False)
    with pytest.raises(Exception, match="append-only"):
        await catalog.database.write(lambda conn: conn.execute(text("TRUNCATE audit_log")) and None)
    await catalog.aclose()
