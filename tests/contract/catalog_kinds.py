"""The catalogs that run the contract suite, and what a writer does with one, in few words."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from material import fresh_object
from sqlalchemy import update

from asyncart.catalog import open_catalog
from asyncart.catalog.protocol import CollectionName, Committed, Draft, StoredObject
from asyncart.catalog.sql import SqlCatalog
from asyncart.catalog.tables import sessions
from asyncart.model import (
    Content,
    Extent,
    ManifestLocation,
    RunInfo,
    RunState,
    UploadPart,
)

KINDS = ["sqlite", "postgres"]
BIKES = CollectionName("me", "bikes", "bike-data")

_count = itertools.count()


def digest(text: str) -> bytes:
    return blake3(text.encode()).digest()


def fresh_id(prefix: str) -> str:
    return f"{prefix}-{os.getpid()}-{next(_count)}"


def content(text: str, object_id: str, offset: int = 0) -> Content:
    return Content(digest(text), len(text), (Extent(object_id, offset, len(text)),))


def part(index: int, text: str = "part") -> UploadPart:
    return UploadPart(index, index * 100, 100, digest(f"{text}{index}"))


def run(run_id: str, **more: Any) -> RunInfo:
    values = {"entity": "me", "project": "bikes", "name": run_id, "job_type": None}
    values |= {"state": RunState.RUNNING, "created_at": 1.0} | more
    return RunInfo(id=run_id, **values)


class Writer:
    """A session, and the steps that every upload goes through."""

    def __init__(self, catalog: SqlCatalog, session_id: str) -> None:
        self.catalog = catalog
        self.session_id = session_id

    @classmethod
    async def begin(cls, catalog: SqlCatalog, entity: str = "me") -> Writer:
        return cls(catalog, await catalog.begin_session(entity))

    async def store(self, *texts: str) -> str:
        """A new object in which these contents lie, one after the other."""
        object_id = fresh_object()
        await self.catalog.register_upload(self.session_id, object_id)
        offsets = itertools.accumulate(map(len, texts), initial=0)
        contents = [content(text, object_id, at) for text, at in zip(texts, offsets, strict=False)]
        size = sum(map(len, texts))
        await self.catalog.add_stored(self.session_id, [StoredObject(object_id, size)], contents)
        return object_id

    async def stored(self, *texts: str) -> dict[bytes, Content]:
        return await self.catalog.stored_contents(self.session_id, [digest(t) for t in texts])

    async def draft(
        self,
        *texts: str,
        objects: Sequence[str] | None = None,
        manifest: str | None = None,
        name: CollectionName = BIKES,
        type: str = "dataset",
        **more: Any,
    ) -> Draft:
        """A draft of these contents, with all its objects stored."""
        if objects is None:
            objects = [await self.store(*texts)]
        manifest = manifest or await self.store()
        size = sum(map(len, texts))
        return Draft(
            **{"id": fresh_id("draft")} | more,
            collection=name,
            type=type,
            digest=digest("/".join(texts)),
            size=size,
            entry_count=len(texts),
            manifest=ManifestLocation(manifest, 10, 5, digest(manifest)),
            object_ids=tuple(objects),
        )

    async def log(self, *texts: str, **more: Any) -> Committed:
        draft = await self.draft(*texts, **more)
        return await self.catalog.commit_version(self.session_id, draft)

    async def end(self) -> None:
        await self.catalog.end_session(self.session_id)


async def expire(catalog: SqlCatalog, session_id: str) -> None:
    """Let the session's lease run out now."""
    late = update(sessions).where(sessions.c.public_id == session_id).values(expires_at=1.0)
    await catalog.database.write(lambda conn: conn.execute(late) and None)


async def sweep(catalog: SqlCatalog) -> set[str]:
    """One collection pass, with the bytes deleted; the objects that it deleted."""
    collected = await catalog.collect()
    for upload in collected.aborted_uploads:
        await catalog.forget_upload(upload.object_id)
    await catalog.forget_objects(collected.deleted_object_ids)
    return set(collected.deleted_object_ids)


@pytest.fixture(params=KINDS)
def catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/catalog.db"


@pytest.fixture
async def catalog(catalog_url: str) -> AsyncIterator[SqlCatalog]:
    catalog = await open_catalog(catalog_url)
    yield catalog
    await catalog.aclose()


@pytest.fixture
async def writer(catalog: SqlCatalog) -> Writer:
    return await Writer.begin(catalog)
