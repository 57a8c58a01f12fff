"""No verb reads all of a table that grows: what a question costs does not depend on what else is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from catalog_kinds import BIKES, Writer, digest, fresh_object, part, run, sweep
from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection

from asyncart.catalog import claims, commits, grants, open_catalog, ownership, versions
from asyncart.catalog.protocol import Compaction, Retention, Rewritten
from asyncart.catalog.sql import SqlCatalog
from asyncart.model import ManifestLocation, RunState

# Only those that are not over, or whose lease still runs.
SMALL = {"sessions"}


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[SqlCatalog]:
    catalog = await open_catalog(f"sqlite:///{tmp_path}/catalog.db")
    assert isinstance(catalog, SqlCatalog)
    yield catalog
    await catalog.aclose()


@pytest.fixture
def scans(catalog: SqlCatalog) -> Iterator[dict[str, str]]:
    """Statements that go through a whole table, and which."""
    found: dict[str, str] = {}
    planned: set[str] = set()

    def plan(
        conn: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if statement in planned or statement.startswith("INSERT"):
            return
        planned.add(statement)
        values = parameters[0] if many else parameters
        raw: Any = conn.connection.driver_connection
        for *_, step in raw.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall():
            words = step.split()
            is_table = words[0] == "SCAN" and not words[1].startswith("anon_")
            if is_table and words[1] not in SMALL:
                found[statement] = step

    event.listen(Engine, "before_cursor_execute", plan)
    yield found
    event.remove(Engine, "before_cursor_execute", plan)


async def test_the_verbs_of_a_writer_and_of_a_reader(catalog, scans):
    await catalog.create_run(run("r"))
    writer = await Writer.begin(catalog)
    await writer.stored("a")
    await catalog.stored_chunks(writer.session_id, [digest("a")])
    pack = await writer.store("a", "b")
    draft = await writer.draft("a", "b", objects=[pack], run_id="r", aliases=("best",))
    version = (await catalog.commit_version(writer.session_id, draft)).version
    await catalog.record_use("r", version.id)
    await catalog.used_by(version.id)
    await catalog.logged_by(version.id)
    await catalog.run_inputs("r")
    await catalog.run_outputs("r")
    await catalog.finish_run("r", RunState.FINISHED)
    await catalog.renew_session(writer.session_id)
    upload = fresh_object()
    await catalog.register_upload(writer.session_id, upload, "token", "key")
    await catalog.register_upload(writer.session_id, upload, "other", "key")
    await catalog.note_parts(upload, [part(0)])
    await writer.end()
    later = await Writer.begin(catalog)
    assert await catalog.adopt_upload(later.session_id, "key") is not None
    await catalog.forget_upload(upload)
    await catalog.find_version(BIKES, version.digest)
    await catalog.resolve(BIKES, "best")
    await catalog.resolve(BIKES, "v0")
    await catalog.list_versions(BIKES)
    await catalog.list_collections("me")
    await catalog.list_collections("me", "bikes", "dataset")
    await catalog.mark_damaged([pack])
    await later.log("a", "b")
    await later.end()
    assert scans == {}


async def test_changing_and_deleting(catalog, scans):
    writer = await Writer.begin(catalog)
    pack = await writer.store("a", "b", "c")
    version = (await writer.log("a", "b", "c", objects=[pack])).version
    kept = (await writer.log("a", objects=[pack])).version
    await catalog.update_version(version.id, add_aliases=["x"], description="d", ttl_s=None)
    await catalog.update_version(version.id, add_aliases=["z"], remove_aliases=["x"])
    await catalog.set_alias(version.id, "y")
    await catalog.remove_alias(BIKES, "y")
    await catalog.delete_version(version.id, delete_aliases=True)
    loose = await catalog.loose_objects()
    assert await catalog.versions_reaching([each.number for each in loose])
    manifest = await writer.store()
    where = ManifestLocation(manifest, 10, 5, digest(manifest))
    new = await writer.store("a")
    moved = Rewritten(kept.id, kept.manifest, where, (new,))
    await catalog.compact(writer.session_id, Compaction((pack,), (), (), (moved,)))
    await catalog.mark_compact(loose)
    await writer.log("d")
    await catalog.prune_versions(BIKES, Retention(keep_last=1))
    await catalog.delete_collection(BIKES, delete_aliases=True)
    await catalog.database.write(commits.forget_drafts)
    assert scans == {}
    await sweep(catalog)
    assert scans, "the collector looks at every object; if not, this test sees nothing"


async def test_what_a_server_asks(catalog, scans):
    writer = await Writer.begin(catalog)
    pack = await writer.store("a")
    version = (await writer.log("a", objects=[pack])).version
    for question, *asked in (
        (claims.of_object, version.manifest.object_id),
        (grants.objects_of, version.id, 10),
        (grants.own_uploads, 1, [pack]),
        (grants.is_writing, pack),
        (partial(versions.list_collections, projects={"bikes"}, after="bikes/a", limit=10), "me"),
        (ownership.held_objects, [pack], None),
        (ownership.held_objects, [pack], {"bikes"}),
        (ownership.own_objects, 1, [pack]),
        (ownership.entities_of, [pack]),
        (ownership.of_run, "r"),
        (ownership.of_version, version.id),
        (ownership.of_draft, "d"),
        (ownership.of_session, writer.session_id),
        (ownership.of_key, "k"),
    ):
        await catalog.database.read(question, *asked)
    assert scans == {}
