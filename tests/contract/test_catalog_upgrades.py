"""A catalog of an older schema, made by the migrations themselves and filled, is upgraded with all it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from catalog_kinds import BIKES, Writer, catalog_url, digest
from sqlalchemy import insert, select, text
from sqlalchemy.engine import Connection

from asyncart.catalog import open_catalog, schema, tables, upgrade
from asyncart.catalog.opening import open_database
from asyncart.catalog.sqlite import SqliteDatabase
from asyncart.catalog.transactions import Database
from asyncart.errors import Unavailable
from asyncart.model import new_object_id

__all__ = ["catalog_url"]  # a fixture

PACK, OLD_PACK, MANIFEST = (new_object_id(number) for number in range(3))


async def database_at(url: str) -> Database:
    database = open_database(url)
    if isinstance(database, SqliteDatabase):
        await database.make_file()
    return database


def fill_0001(conn: Connection, with_deleted: bool) -> None:
    """One collection with two live versions, and perhaps a deleted one, as schema 0001 knew them."""
    schema.migrate(conn, "0001")
    _insert(conn, "entities", id=1, name="me")
    _insert(
        conn, "collections",
        id=1, entity="me", project="bikes", name="bike-data", type="dataset", next_number=3,
        created_at=1.0, updated_at=2.0,
    )  # fmt: skip
    for number, object_id in enumerate((PACK, OLD_PACK, MANIFEST), 1):
        _insert(
            conn, "objects",
            id=number, object_id=object_id, entity_id=1, state=tables.STORED, size=10 * number,
            token="", resume_key="",
        )  # fmt: skip
    for number in range(3):
        _insert(
            conn, "versions",
            id=number + 1, public_id=f"id{number}", collection_id=1, number=number,
            digest=digest(f"{number}"), size=5, entry_count=1, manifest_object_id=MANIFEST,
            manifest_size=10, footer_bytes=5, footer_digest=digest("f"), metadata='{"n": 1}',
            tags='["t"]', created_at=100.0 + number, updated_at=200.0,
            deleted_at=300.0 if with_deleted and number == 1 else None,
        )  # fmt: skip
        _insert(conn, "version_objects", version_id=number + 1, object=1)
        _insert(conn, "version_objects", version_id=number + 1, object=3)
    _insert(conn, "aliases", collection_id=1, alias="latest", version_id=3)
    _insert(conn, "drafts", id="draft", version_id=3, is_new=True)
    _insert(conn, "contents", entity_id=1, digest=digest("a"), object=1, offset=0, size=5)
    if (
        conn.dialect.name == "postgresql"
    ):  # rows with numbers of their own do not move the sequences
        for name in ("entities", "collections", "objects", "versions"):
            conn.execute(text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), 10)"))


def _insert(conn: Connection, table: str, /, **values: Any) -> None:
    """With these columns only: what came later has no default that is filled in here."""
    conn.execute(insert(tables.metadata.tables[table]).values(**values))


@pytest.mark.parametrize("with_deleted", [True, False])
async def test_an_0001_catalog_keeps_everything(catalog_url, with_deleted):
    """Versions, aliases, contents; each lives for ever, and counts from when it was made."""
    database = await database_at(catalog_url)
    await database.write_alone(fill_0001, with_deleted)
    assert await database.read(schema.revision) == "0001"
    await database.aclose()
    if catalog_url.startswith("postgresql"):
        with pytest.raises(Unavailable, match="older schema 0001"):
            await open_catalog(catalog_url)
    for _ in range(2):
        await upgrade(catalog_url)
    catalog = await open_catalog(catalog_url)
    assert await catalog.database.read(schema.revision) == schema.REVISIONS[-1]
    found = await catalog.list_versions(BIKES)
    live = [2, 0] if with_deleted else [2, 1, 0]
    assert [version.number for version in found] == live
    for version in found:
        assert version.logged_at == version.created_at == 100.0 + version.number
        assert (version.ttl_s, version.expires_at) == (None, None)
        assert (version.metadata, version.tags) == ({"n": 1}, ("t",))
        assert version.manifest.object_id == MANIFEST
    assert found[0].aliases == ("latest",)
    assert [each.name for each in await catalog.list_collections("me")] == ["bike-data"]
    # what was deleted is not known any more: every object that is needed may hold dead bytes
    loose = [each.object_id for each in await catalog.loose_objects()]
    assert loose == ([PACK] if with_deleted else [])
    answered = await catalog.database.read(
        lambda conn: [tuple(row) for row in conn.execute(select(tables.drafts))]
    )
    assert answered == [("draft", 3, True, 102.0)]  # a day later nobody asks for it any more
    writer = await Writer.begin(catalog)
    assert list(await writer.stored("a")) == [digest("a")]
    assert (await writer.log("new", ttl_s=60.0)).version.number == 3
    collected = await catalog.collect()
    assert (collected.condemned, collected.expired_versions) == (1, ())
    await catalog.aclose()


async def test_an_0001_file_is_upgraded_by_opening_it(tmp_path: Path):
    """SQLite has no other users to wait for."""
    url = f"sqlite:///{tmp_path}/catalog.db"
    database = await database_at(url)
    await database.write_alone(fill_0001, False)
    await database.aclose()
    catalog = await open_catalog(url)
    assert len(await catalog.list_versions(BIKES)) == 3
    await catalog.aclose()
