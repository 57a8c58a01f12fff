"""Thousands of rows in one statement, for both databases.

On SQLite every row that crosses into Python, in either direction, releases and takes back the
interpreter's lock. Measured with 100,000 rows on two cores: `executemany` and `IN (?, ...)` take 0.3
and 0.2 s alone, but minutes while another thread is busy in Python, because each of those 100,000
hand-overs may wait 5 ms. So rows travel packed: digests side by side in one blob, numbers as one JSON
array, and answers as one JSON array too. That is 0.3 and 0.15 s alone, 0.9 and 0.5 s beside a busy
thread. PostgreSQL gets arrays, for the same reason: one round trip.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    Select,
    Table,
    any_,
    bindparam,
    func,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from asyncart.errors import Invalid
from asyncart.model import DIGEST_BYTES

from . import tables

ROWS_PER_STATEMENT = 4096  # larger was not faster; bounds the JSON to about 200 KB


# Plain tuples, because a hundred thousand named ones cost a tenth of a second.
Place = tuple[int, int, int]  # object, offset, length
Located = tuple[int, int, int, int, int]  # index of the digest asked for, place, has it a recipe?


# The row may be overwritten if nobody is offered what it says: a recipe (its other objects are not
# looked at here), or an object that is gone, damaged or condemned.
_REPLACEABLE = """NOT EXISTS (
  SELECT 1 FROM objects WHERE objects.id = {table}.object
  AND objects.state = 1 AND NOT objects.is_damaged AND objects.condemned_at IS NULL)"""

_UPSERT_CONTENTS = f"""ON CONFLICT (entity_id, digest) DO UPDATE
  SET object = excluded.object, "offset" = excluded."offset", size = excluded.size, recipe = NULL
  WHERE contents.recipe IS NOT NULL OR {_REPLACEABLE.format(table="contents")}"""
_UPSERT_CHUNKS = f"""ON CONFLICT (entity_id, digest) DO UPDATE
  SET object = excluded.object, "offset" = excluded."offset", length = excluded.length
  WHERE {_REPLACEABLE.format(table="chunks")}"""

# Offsets are JSON, lengths 16 digits each: taking three numbers out of an array per row costs as much as
# inserting the row does (0.34 s of CPU for 100,000, like this 0.21 s).
_SQLITE_ROWS = """SELECT ?1, substr(?2, key * 32 + 1, 32), ?5, value,
  CAST(substr(?4, key * 16 + 1, 16) AS INTEGER) FROM json_each(?3) WHERE true"""
_SQLITE_INSERT = {
    "contents": f'INSERT INTO contents (entity_id, digest, object, "offset", size) {_SQLITE_ROWS} {_UPSERT_CONTENTS}',
    "chunks": f'INSERT INTO chunks (entity_id, digest, object, "offset", length) {_SQLITE_ROWS} {_UPSERT_CHUNKS}',
}
_POSTGRES_ROWS = """SELECT CAST(:entity_id AS integer), d, CAST(:object AS bigint), o, l
  FROM unnest(CAST(:digests AS bytea[]), CAST(:offsets AS bigint[]), CAST(:lengths AS bigint[]))
  AS placed(d, o, l)"""
_POSTGRES_INSERT = {
    "contents": text(
        f'INSERT INTO contents (entity_id, digest, object, "offset", size) {_POSTGRES_ROWS} {_UPSERT_CONTENTS}'
    ),
    "chunks": text(
        f'INSERT INTO chunks (entity_id, digest, object, "offset", length) {_POSTGRES_ROWS} {_UPSERT_CHUNKS}'
    ),
}

# CROSS JOIN keeps the order of the loops: one descent of the tree per digest of the question.
_SQLITE_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?3)"
_SQLITE_FIND = {
    "contents": f"""{_SQLITE_NUMBERS}
      SELECT json_group_array(json_array(i, object, "offset", size, recipe IS NOT NULL)) FROM n
      CROSS JOIN contents ON entity_id = ?1 AND digest = substr(?2, i * 32 + 1, 32)""",
    "chunks": f"""{_SQLITE_NUMBERS}
      SELECT json_group_array(json_array(i, object, "offset", length, 0)) FROM n
      CROSS JOIN chunks ON entity_id = ?1 AND digest = substr(?2, i * 32 + 1, 32)""",
}
_POSTGRES_FIND = {
    "contents": text(
        """SELECT n - 1, object, "offset", size, recipe IS NOT NULL
        FROM unnest(CAST(:digests AS bytea[])) WITH ORDINALITY AS asked(d, n)
        JOIN contents ON entity_id = :entity_id AND digest = d"""
    ),
    "chunks": text(
        """SELECT n - 1, object, "offset", length, false
        FROM unnest(CAST(:digests AS bytea[])) WITH ORDINALITY AS asked(d, n)
        JOIN chunks ON entity_id = :entity_id AND digest = d"""
    ),
}

_SQLITE_DELETE = {
    "contents": f"""{_SQLITE_NUMBERS} DELETE FROM contents WHERE entity_id = ?1
      AND digest IN (SELECT substr(?2, i * 32 + 1, 32) FROM n)
      AND (object = ?4 OR instr(recipe, CAST(?5 AS BLOB)))""",
    "chunks": f"""{_SQLITE_NUMBERS} DELETE FROM chunks WHERE entity_id = ?1
      AND digest IN (SELECT substr(?2, i * 32 + 1, 32) FROM n) AND object = ?4""",
}
_POSTGRES_DELETE = {
    "contents": text(
        """DELETE FROM contents WHERE entity_id = :entity_id AND digest = any(CAST(:digests AS bytea[]))
        AND (object = :object OR position(CAST(:name AS bytea) in recipe) > 0)"""
    ),
    "chunks": text(
        """DELETE FROM chunks WHERE entity_id = :entity_id AND digest = any(CAST(:digests AS bytea[]))
        AND object = :object"""
    ),
}

_numbers = msgspec.json.Encoder()
_located = msgspec.json.Decoder(list[Located])
_ARRAYS = {
    "digests": postgresql.ARRAY(tables.contents.c.digest.type),
    "offsets": postgresql.ARRAY(tables.contents.c.offset.type),
    "lengths": postgresql.ARRAY(tables.contents.c.size.type),
}


def is_sqlite(conn: Connection) -> bool:
    return conn.dialect.name == "sqlite"


def place(conn: Connection, table: Table, entity_id: int, places: Mapping[bytes, Place]) -> None:
    """Write rows of `contents` or `chunks`; what others may use already stays as it is."""
    by_object: dict[int, list[bytes]] = {}
    for digest in sorted(places):  # in the tree's order
        by_object.setdefault(places[digest][0], []).append(digest)
    for object_, digests in by_object.items():
        for start in range(0, len(digests), ROWS_PER_STATEMENT):
            some = digests[start : start + ROWS_PER_STATEMENT]
            where = [places[digest] for digest in some]
            _place(conn, table, entity_id, object_, some, where)


def _place(
    conn: Connection,
    table: Table,
    entity_id: int,
    object_: int,
    digests: list[bytes],
    places: Sequence[Place],
) -> None:
    packed = _packed(digests)
    # not zip(*places): that keeps as many iterators alive for the garbage collector to walk through
    offsets = tuple([offset for _, offset, _ in places])
    lengths = tuple([length for _, _, length in places])
    if is_sqlite(conn):
        encoded = _numbers.encode(offsets).decode()
        digits = b"%016d" * len(lengths) % lengths
        _raw(conn).execute(
            _SQLITE_INSERT[table.name], (entity_id, packed, encoded, digits, object_)
        )
        return
    arrays = {"offsets": list(offsets), "lengths": list(lengths)}
    binds = [bindparam(name, type_=kind) for name, kind in _ARRAYS.items()]
    conn.execute(
        _POSTGRES_INSERT[table.name].bindparams(*binds),
        {"entity_id": entity_id, "object": object_, "digests": digests, **arrays},
    )


def find(
    conn: Connection, table: Table, entity_id: int, digests: Sequence[bytes]
) -> Iterator[tuple[Sequence[bytes], Sequence[Located]]]:
    """Batches of the question, each with those rows of `contents` or `chunks` that answer it.

    Whatever became of their objects: that is to be looked up there.
    """
    for start in range(0, len(digests), ROWS_PER_STATEMENT):
        batch = digests[start : start + ROWS_PER_STATEMENT]
        packed = _packed(batch)
        if is_sqlite(conn):
            question = (entity_id, packed, len(batch))
            answer = _raw(conn).execute(_SQLITE_FIND[table.name], question).fetchone()[0]
            yield batch, _located.decode(answer)
            continue
        bind = bindparam("digests", type_=_ARRAYS["digests"])
        rows = conn.execute(
            _POSTGRES_FIND[table.name].bindparams(bind),
            {"entity_id": entity_id, "digests": list(batch)},
        )
        yield batch, cast("Sequence[Located]", rows.all())


def remove(
    conn: Connection, table: Table, entity_id: int, digests: bytes, object_: int, object_id: str
) -> None:
    """Delete those rows of `contents` or `chunks` that point into the object; `digests` is packed.

    A recipe points into every object whose id is in it: ids stand there as they are.
    """
    step = ROWS_PER_STATEMENT * DIGEST_BYTES
    for start in range(0, len(digests), step):
        packed = digests[start : start + step]
        if is_sqlite(conn):
            count = len(packed) // DIGEST_BYTES
            name = (object_id,) if table is tables.contents else ()
            _raw(conn).execute(
                _SQLITE_DELETE[table.name], (entity_id, packed, count, object_, *name)
            )
            continue
        each = [packed[at : at + DIGEST_BYTES] for at in range(0, len(packed), DIGEST_BYTES)]
        statement = _POSTGRES_DELETE[table.name].bindparams(
            bindparam("digests", type_=_ARRAYS["digests"])
        )
        values: dict[str, Any] = {"entity_id": entity_id, "digests": each, "object": object_}
        if table is tables.contents:
            statement = statement.bindparams(bindparam("name", type_=LargeBinary))
            values["name"] = object_id.encode()
        conn.execute(statement, values)


def among(
    conn: Connection, column: ColumnElement[Any], values: Iterable[int] | Iterable[str]
) -> ColumnElement[bool]:
    """`column IN (values)`, with one parameter however many values there are."""
    if is_sqlite(conn):
        each = func.json_each(json.dumps(list(values))).table_valued("value")
        return column.in_(select(each.c.value))
    array = postgresql.ARRAY(cast("Any", column.type))
    return column == any_(bindparam(None, list(values), type_=array))


def insert_new(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert; rows that are there already stay as they are."""
    if not rows:
        return
    if is_sqlite(conn):
        conn.execute(sqlite.insert(table).on_conflict_do_nothing(), rows)
    else:
        conn.execute(postgresql.insert(table).on_conflict_do_nothing(), rows)


def insert_new_from(
    conn: Connection, table: Table, columns: Sequence[str], rows: Select[Any]
) -> None:
    """The same with the rows of a query, which has to have a WHERE (SQLite's grammar)."""
    statement = sqlite.insert(table) if is_sqlite(conn) else postgresql.insert(table)
    conn.execute(statement.from_select(columns, rows).on_conflict_do_nothing())


def insert_if_new(conn: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert one row; False, and nothing done, if its key is there already."""
    statement = sqlite.insert(table) if is_sqlite(conn) else postgresql.insert(table)
    return conn.execute(statement.on_conflict_do_nothing(), row).rowcount == 1


def upsert(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert; rows that are there already get the new values."""
    if not rows:
        return
    statement = sqlite.insert(table) if is_sqlite(conn) else postgresql.insert(table)
    keys = [column.name for column in table.primary_key]
    new = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    conn.execute(statement.on_conflict_do_update(index_elements=keys, set_=new), rows)


def _packed(digests: Sequence[bytes]) -> bytes:
    wrong = next((digest for digest in digests if len(digest) != DIGEST_BYTES), None)
    if wrong is not None:
        raise Invalid(f"a digest has {DIGEST_BYTES} bytes, not {len(wrong)}: {wrong.hex()}")
    return b"".join(digests)


def _raw(conn: Connection) -> sqlite3.Connection:
    return cast("sqlite3.Connection", conn.connection.driver_connection)
