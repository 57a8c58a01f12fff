"""The catalog's tables: one set for SQLite and PostgreSQL.

The three tables that grow with the number of files (`contents`, `chunks`, `version_objects`) name
entities and objects by small integers and have no second index: 100,000 contents are 6 MB, and one
insertion touches one tree. What a secondary index would be needed for - "every digest that lies in
this object" - is asked only when the object is deleted, and is answered by `listings`: the digests
written down once, side by side.

Deleting a version leaves its row behind as a tombstone: its number is never given again, runs keep
their history, and its digest matches nothing, because only live rows are in the unique index.

Metadata, tags and run configurations are JSON in plain text columns. PostgreSQL's JSONB refuses some
JSON strings (NUL) and reorders keys; a user gets back exactly what was logged.

The tables from `accounts` on are a server's; those of an embedded catalog stay empty.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    event,
    false,
    text,
)

# What `objects.state` says. An object is offered to writers if it is STORED, undamaged, uncondemned.
WRITING, STORED, DOOMED = 0, 1, 2

# What `lineage.direction` says.
INPUT, OUTPUT = 0, 1

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in a column that is exactly INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")

entities = Table(
    "entities",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("entity", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("job_type", Text),
    Column("state", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("config", Text, nullable=False),
)

collections = Table(
    "collections",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("entity", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("next_number", BigInteger, nullable=False),  # outlives the versions: never given twice
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("deleted_at", Double),  # its row stays: the next version of the name gets a new number
    UniqueConstraint("entity", "project", "name"),
    sqlite_autoincrement=True,
)

versions = Table(
    "versions",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("collection_id", ForeignKey("collections.id"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("entry_count", BigInteger, nullable=False),
    Column("manifest_object_id", Text, nullable=False),
    Column("manifest_size", BigInteger, nullable=False),
    Column("footer_bytes", BigInteger, nullable=False),
    Column("footer_digest", LargeBinary, nullable=False),
    Column("description", Text),
    Column("metadata", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("is_damaged", Boolean, nullable=False, server_default=false()),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("deleted_at", Double),
    Column("ttl_s", Double),  # how long it lives after it was logged last; NULL: for ever
    Column("logged_at", Double, nullable=False, server_default=text("0")),
    UniqueConstraint("collection_id", "number"),
    Index(
        "uq_versions_live_digest",
        "collection_id",
        "digest",
        unique=True,
        sqlite_where=text("deleted_at IS NULL"),
        postgresql_where=text("deleted_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)

aliases = Table(
    "aliases",
    metadata,
    Column("collection_id", ForeignKey("collections.id"), primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version_id", ForeignKey("versions.id"), nullable=False, index=True),
    sqlite_with_rowid=False,
)

drafts = Table(
    "drafts",  # which drafts were committed lately, and as what: see commits.py
    metadata,
    Column("id", Text, primary_key=True),
    Column("version_id", ForeignKey("versions.id"), nullable=False),
    Column("is_new", Boolean, nullable=False),
    Column("committed_at", Double, nullable=False, server_default=text("0"), index=True),
    sqlite_with_rowid=False,
)

lineage = Table(
    "lineage",
    metadata,
    Column("id", _Id, primary_key=True),  # the order in which it was recorded
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("version_id", ForeignKey("versions.id"), nullable=False, index=True),
    Column("direction", SmallInteger, nullable=False),
    UniqueConstraint("run_id", "version_id", "direction"),
    sqlite_autoincrement=True,
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", _Id, primary_key=True),  # the sequence: never reused, even when all are gone
    Column("public_id", Text, nullable=False, unique=True),
    Column("entity_id", ForeignKey("entities.id"), nullable=False),
    Column("owner", Text, nullable=False),  # see owner.py; "" where nobody can tell
    Column("expires_at", Double, nullable=False),
    Column("is_over", Boolean, nullable=False, server_default=false()),
    Column("principal", BigInteger),  # the user (accounts.id) whose session it is at a server
    Column("project", Text),  # what the client said that it will write to, if it did
    sqlite_autoincrement=True,
)

objects = Table(
    "objects",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("object_id", Text, nullable=False, unique=True),
    Column("entity_id", ForeignKey("entities.id"), nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("session_id", BigInteger),  # its writer, until a version owns it
    Column("token", Text, nullable=False),
    Column("resume_key", Text, nullable=False),
    Column("is_damaged", Boolean, nullable=False, server_default=false()),
    Column("condemned_at", BigInteger),  # the newest session that was alive when it was condemned
    # The version whose deletion may have left dead bytes in it (0: something else did). NULL: nothing
    # did since somebody looked, so it needs no compaction.
    Column("loosened_by", BigInteger),
    Index(
        "ix_objects_writing",
        "entity_id",
        "resume_key",
        sqlite_where=text("state = 0"),
        postgresql_where=text("state = 0"),
    ),
    sqlite_autoincrement=True,
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("object", BigInteger, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

contents = Table(
    "contents",  # what is stored: a run of one object, or a recipe (extents and chunks, see contents.py)
    metadata,
    Column("entity_id", Integer, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary, primary_key=True),
    Column("object", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("recipe", LargeBinary),
    sqlite_with_rowid=False,
)

chunks = Table(
    "chunks",
    metadata,
    Column("entity_id", Integer, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary, primary_key=True),
    Column("object", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

listings = Table(
    "listings",  # the digests of contents and chunks that were said to lie in an object
    metadata,
    Column("id", _Id, primary_key=True),
    Column("object", BigInteger, nullable=False, index=True),
    Column("contents", LargeBinary, nullable=False),
    Column("chunks", LargeBinary, nullable=False),
)

version_objects = Table(
    "version_objects",  # what keeps objects alive: live versions only
    metadata,
    Column("version_id", BigInteger, primary_key=True, autoincrement=False),
    Column("object", BigInteger, primary_key=True, autoincrement=False),
    Index("ix_version_objects_object", "object"),
    sqlite_with_rowid=False,
)

facts = Table(
    "facts",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)

# What `accounts.kind` says. One table, because a name means one thing: the owner of an entity.
USER, TEAM = 0, 1

accounts = Table(
    "accounts",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("kind", SmallInteger, nullable=False),
    Column("is_admin", Boolean, nullable=False, server_default=false()),
    Column("is_disabled", Boolean, nullable=False, server_default=false()),
    Column("created_at", Double, nullable=False),
    sqlite_autoincrement=True,
)

memberships = Table(
    "memberships",
    metadata,
    Column("team_id", ForeignKey("accounts.id"), primary_key=True),
    Column("user_id", ForeignKey("accounts.id"), primary_key=True, index=True),
    Column("role", Text, nullable=False),
    sqlite_with_rowid=False,
)

project_roles = Table(
    "project_roles",
    metadata,
    Column("user_id", ForeignKey("accounts.id"), primary_key=True),
    Column("entity", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Index("ix_project_roles_entity_project", "entity", "project"),
    sqlite_with_rowid=False,
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),  # keyed, see keys.py; the key itself is nowhere
    Column("scopes", Text, nullable=False),  # separated by spaces
    Column("entity", Text),  # with project: the only one that the key may be used for
    Column("project", Text),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("used_on", Text),  # a day, so that a key in use is written once a day
    sqlite_with_rowid=False,
)

protected_aliases = Table(
    "protected_aliases",
    metadata,
    Column("entity", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("collection", Text, primary_key=True),  # "": all of the project
    Column("pattern", Text, primary_key=True),
    sqlite_with_rowid=False,
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("at", Double, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("user", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("entity", Text),
    Column("project", Text),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_audit_log_entity", "entity", "id"),
    sqlite_autoincrement=True,
)

# Whoever can reach the tables only as the server does cannot rewrite what was done.
APPEND_ONLY = {
    "sqlite": (
        """CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
        """CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    ),
    "postgresql": (
        """CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$""",
        """CREATE TRIGGER audit_log_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
        FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only()""",
    ),
}
for _dialect, _statements in APPEND_ONLY.items():
    for _statement in _statements:
        _ddl = DDL(_statement)  # type: ignore[no-untyped-call]
        event.listen(audit_log, "after_create", _ddl.execute_if(dialect=_dialect))

idempotency = Table(
    "idempotency",  # what was answered to a write that the client gave a key; kept for a day
    metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),  # of the request
    Column("status", SmallInteger),  # NULL while it is being carried out
    Column("body", LargeBinary),
    Column("created_at", Double, nullable=False, index=True),
    sqlite_with_rowid=False,
)

server_secret = Table(
    "server_secret",  # one row: what keys are hashed with, unless the environment says it
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("secret", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
