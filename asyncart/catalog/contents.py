"""What is stored, and where: the answer to "do you have this digest?", thousands at a time.

Most contents are one run of one object and need a digest and three numbers. The rest (large files:
chunked, or spread over several objects) carry a *recipe*, the msgpack of their extents and chunks.

An index row is a hint, checked against the objects whenever it is used: objects that are being
written, damaged, condemned or gone are never offered, whatever the index still says about them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, and_, bindparam, delete, insert, select, update
from sqlalchemy.engine import Connection

from asyncart.errors import Conflict
from asyncart.model import Chunk, Content, Extent

from . import bulk
from .protocol import StoredObject
from .sessions import Session, live
from .tables import (
    DOOMED,
    STORED,
    chunks,
    contents,
    listings,
    objects,
    upload_parts,
    version_objects,
    versions,
)


class Recipe(msgspec.Struct, frozen=True, array_like=True):
    """How a content is put together that is more than one run of one object."""

    extents: tuple[Extent, ...]
    chunks: tuple[Chunk, ...]


_encode_recipe = msgspec.msgpack.Encoder().encode
_decode_recipe = msgspec.msgpack.Decoder(Recipe).decode

IS_OFFERED: ColumnElement[bool] = and_(
    objects.c.state == STORED, ~objects.c.is_damaged, objects.c.condemned_at.is_(None)
)


_ARRIVED = (
    update(objects)
    .where(objects.c.id == bindparam("number"))
    .values(state=STORED, size=bindparam("nbytes"), token="", resume_key="", condemned_at=None)
)


def stored_contents(
    conn: Connection, session_id: str, digests: Sequence[bytes]
) -> dict[bytes, Content]:
    session = live(conn, session_id)
    stored: dict[bytes, Content] = {}
    for asked, found in bulk.find(conn, contents, session.entity_id, digests):
        names = _offered(conn, {row[1] for row in found})
        recipes: dict[bytes, int] = {}
        for index, object_, offset, size, has_recipe in found:
            digest = asked[index]
            if has_recipe:
                recipes[digest] = size
            elif name := names.get(object_):
                stored[digest] = Content(digest, size, (Extent(name, offset, size),))
        if recipes:
            stored |= _by_recipe(conn, session, recipes)
    return stored


def stored_chunks(
    conn: Connection, session_id: str, digests: Sequence[bytes]
) -> dict[bytes, Extent]:
    session = live(conn, session_id)
    stored: dict[bytes, Extent] = {}
    for asked, found in bulk.find(conn, chunks, session.entity_id, digests):
        names = _offered(conn, {row[1] for row in found})
        for index, object_, offset, length, _ in found:
            if name := names.get(object_):
                stored[asked[index]] = Extent(name, offset, length)
    return stored


def add_stored(
    conn: Connection,
    session_id: str,
    stored: Sequence[StoredObject],
    contents_: Sequence[Content],
) -> None:
    session = live(conn, session_id)
    _mark_stored(conn, session, stored)
    named = {extent.object_id for content in contents_ for extent in content.extents}
    named.update(object_.object_id for object_ in stored)
    numbers = _numbers(conn, session, named)
    listed = _place_contents(conn, session, contents_, numbers)
    listed_chunks = _place_chunks(conn, session, stored, numbers)
    rows = [
        {
            "object": number,
            "contents": b"".join(listed.get(number, ())),
            "chunks": b"".join(listed_chunks.get(number, ())),
        }
        for number in sorted(listed.keys() | listed_chunks.keys())
    ]
    if rows:
        conn.execute(insert(listings), rows)


def _place_contents(
    conn: Connection,
    session: Session,
    contents_: Sequence[Content],
    numbers: dict[str, int],
) -> dict[int, list[bytes]]:
    """Write the index rows; the digests by the objects that they lie in."""
    listed: defaultdict[int, list[bytes]] = defaultdict(list)
    places: dict[bytes, bulk.Place] = {}
    recipes: dict[bytes, dict[str, Any]] = {}
    for content in contents_:
        digest, size, extents = content.digest, content.size, content.extents
        if not extents:
            continue  # an empty file: nothing is stored, so nothing can be found
        first = numbers[extents[0].object_id]
        if len(extents) == 1 and not content.chunks:
            places[digest] = (first, extents[0].offset, size)
            listed[first].append(digest)
            continue
        recipes[digest] = {
            "entity_id": session.entity_id,
            "digest": digest,
            "object": first,
            "offset": 0,
            "size": size,
            "recipe": _encode_recipe(Recipe(extents, content.chunks)),
        }
        for object_id in {extent.object_id for extent in extents}:
            listed[numbers[object_id]].append(digest)
    bulk.place(conn, contents, session.entity_id, places)
    bulk.upsert(conn, contents, list(recipes.values()))
    return listed


def _place_chunks(
    conn: Connection, session: Session, stored: Sequence[StoredObject], numbers: dict[str, int]
) -> dict[int, list[bytes]]:
    """The same for the chunks of large files."""
    listed: dict[int, list[bytes]] = {}
    places: dict[bytes, bulk.Place] = {}
    for object_ in stored:
        number = numbers[object_.object_id]
        for chunk, offset in object_.chunks:
            places[chunk.digest] = (number, offset, chunk.length)
        if object_.chunks:
            listed[number] = [chunk.digest for chunk, _ in object_.chunks]
    bulk.place(conn, chunks, session.entity_id, places)
    return listed


def mark_damaged(conn: Connection, object_ids: Sequence[str]) -> None:
    if not object_ids:
        return
    damaged = bulk.among(conn, objects.c.object_id, object_ids)
    conn.execute(update(objects).where(damaged).values(is_damaged=True))
    using = (
        select(version_objects.c.version_id)
        .join(objects, objects.c.id == version_objects.c.object)
        .where(damaged)
    )
    conn.execute(update(versions).where(versions.c.id.in_(using)).values(is_damaged=True))


def _offered(conn: Connection, numbers: Iterable[int]) -> dict[int, str]:
    """Object ids by number, of those that may be used."""
    wanted = list(numbers)
    if not wanted:
        return {}
    query = select(objects.c.id, objects.c.object_id).where(
        bulk.among(conn, objects.c.id, wanted), IS_OFFERED
    )
    return dict(conn.execute(query).all())


def _by_recipe(conn: Connection, session: Session, sizes: dict[bytes, int]) -> dict[bytes, Content]:
    digests = list(sizes)
    recipes: dict[bytes, Recipe] = {}
    for start in range(0, len(digests), 512):
        query = select(contents.c.digest, contents.c.recipe).where(
            contents.c.entity_id == session.entity_id,
            contents.c.digest.in_(digests[start : start + 512]),
            contents.c.recipe.is_not(None),
        )
        for digest, recipe in conn.execute(query):
            recipes[digest] = _decode_recipe(recipe)
    named = {extent.object_id for recipe in recipes.values() for extent in recipe.extents}
    query = select(objects.c.object_id).where(
        bulk.among(conn, objects.c.object_id, named), IS_OFFERED
    )
    offered = set(conn.execute(query).scalars())
    return {
        digest: Content(digest, sizes[digest], recipe.extents, recipe.chunks)
        for digest, recipe in recipes.items()
        if all(extent.object_id in offered for extent in recipe.extents)
    }


def _mark_stored(conn: Connection, session: Session, stored: Sequence[StoredObject]) -> None:
    if not stored:
        return
    sizes = {object_.object_id: object_.size for object_ in stored}
    query = select(
        objects.c.id, objects.c.object_id, objects.c.state, objects.c.size, objects.c.session_id
    ).where(bulk.among(conn, objects.c.object_id, sizes), objects.c.entity_id == session.entity_id)
    there = {row.object_id: row for row in conn.execute(query.with_for_update())}
    arrived: list[dict[str, int]] = []
    for object_id, size in sizes.items():
        row = there.get(object_id)
        if row is None or row.state == DOOMED:
            raise Conflict(
                f"object {object_id} is not registered (any more): it was collected; log again"
            )
        if row.state == STORED:
            if row.size != size:
                raise Conflict(f"object {object_id} is stored with {row.size} bytes, not {size}")
            continue
        if row.session_id != session.id:
            raise Conflict(f"object {object_id} is being uploaded by another session; log again")
        arrived.append({"number": row.id, "nbytes": size})
    if arrived:
        numbers = [each["number"] for each in arrived]
        conn.execute(_ARRIVED, arrived)
        conn.execute(delete(upload_parts).where(bulk.among(conn, upload_parts.c.object, numbers)))


def _numbers(conn: Connection, session: Session, object_ids: set[str]) -> dict[str, int]:
    """Numbers of stored objects by their ids; Conflict if one of them is not there."""
    if not object_ids:
        return {}
    query = select(objects.c.object_id, objects.c.id).where(
        bulk.among(conn, objects.c.object_id, object_ids),
        objects.c.entity_id == session.entity_id,
        objects.c.state == STORED,
    )
    numbers = dict(conn.execute(query).all())
    if missing := object_ids - numbers.keys():
        raise Conflict(f"object {min(missing)} is not stored (any more); log again")
    return numbers
