"""What only a SQLite catalog can meet: its file, its disk, its locks, forks and kills."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from catalog_kinds import BIKES, Writer, digest, fresh_object
from sqlalchemy import create_engine, inspect, select, text, update

from asyncart.catalog import open_catalog, owner, schema, sessions, sqlite, tables, upgrade
from asyncart.catalog.sql import SqlCatalog
from asyncart.errors import Corrupt, Denied, Invalid, NotFound, Unavailable

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Another process holds the file locked; its process id."""
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


# opening


@pytest.mark.parametrize("prefix", ["", "sqlite:///"])
async def test_paths_and_urls(tmp_path, monkeypatch, prefix):
    """Relative and absolute; folders are made; names that mean something in a URL are names."""
    monkeypatch.chdir(tmp_path)
    for name in ("catalog.db", "a/b/catalog.db", "100%?mode=ro#x y.db", str(tmp_path / "c.db")):
        catalog = await open_catalog(f"{prefix}{name}")
        await catalog.set_fact("k", "v")
        await catalog.aclose()
        assert os.path.getsize(name)


@pytest.mark.parametrize("url", ["", ":memory:", "sqlite://", "mysql://x/y", "sqlite:///:memory:"])
async def test_what_is_no_catalog_is_refused(url):
    with pytest.raises(Invalid, match=r"sqlite:///path"):
        await open_catalog(url)


async def test_a_file_that_is_no_database_is_named(path):
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(Corrupt, match=f"{path}: is not a SQLite database"):
        await open_catalog(str(path))
    assert path.read_bytes() == b"hello" * 1000


async def test_a_damaged_database_is_named(path):
    """Its first page is whole, the rest is noise."""
    catalog = await open_catalog(str(path))
    writer = await Writer.begin(catalog)
    await writer.log("a")
    await catalog.aclose()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))

    async def read() -> None:
        catalog = await open_catalog(str(path))
        try:
            await catalog.resolve(BIKES, "latest")
        finally:
            await catalog.aclose()

    with pytest.raises(Corrupt, match=f"{path}: the catalog is damaged"):
        await read()


async def test_somebody_elses_database_is_left_alone(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE cookies (id)")
    other.close()
    with pytest.raises(Invalid, match="is the database of something else"):
        await open_catalog(str(path))


async def test_a_folder_is_no_catalog(tmp_path):
    with pytest.raises(Invalid, match="is a directory"):
        await open_catalog(str(tmp_path))


async def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(Unavailable, match="cannot create the catalog"):
        await open_catalog(str(tmp_path / "file" / "catalog.db"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
async def test_a_folder_that_cannot_be_written_is_denied(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(Denied):
        await open_catalog(str(tmp_path / "catalog.db"))


async def test_a_closed_catalog_says_so(path):
    catalog = await open_catalog(str(path))
    await catalog.aclose()
    await catalog.aclose()
    with pytest.raises(Unavailable, match="was closed"):
        await catalog.get_fact("k")


async def test_a_catalog_that_was_deleted_while_open_is_missed(path):
    """What is written is never lost in a file without a name."""
    catalog = await open_catalog(str(path))
    path.unlink()
    with pytest.raises(Unavailable, match=r"moved or deleted|is gone"):
        await catalog.set_fact("k", "v")
    assert not path.exists()
    await catalog.aclose()


async def test_a_wal_database_becomes_one_with_a_rollback_journal(path):
    """Somebody switched it; SQLite's old WAL bug must not find it."""
    await (await open_catalog(str(path))).aclose()
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    other.close()
    catalog = await open_catalog(str(path))
    await catalog.set_fact("k", "v")
    settings = "journal_mode", "synchronous", "foreign_keys"
    values = await catalog.database.read(
        lambda conn: [conn.execute(text(f"PRAGMA {name}")).scalar() for name in settings]
    )
    assert values == ["truncate", 2, 1]
    await catalog.aclose()


# the schema and its history


def definitions(sql: str) -> list[str]:
    """What stands between the commas of a CREATE statement's outermost brackets, and around them."""
    found, depth = [""], 0
    for letter in sql:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        is_border = (letter == "," and depth == 1) or (letter, depth) in (("(", 1), (")", 0))
        if is_border:
            found.append("")
        else:
            found[-1] += letter
    return found


def layout(path: Path) -> dict[str, list[str]]:
    """Every table and index with all that defines it, but for spelling."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as conn:
        rows = conn.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        sql = {name: sorted(definitions("".join(s.split()))) for name, s in rows}
        names = inspect(conn).get_table_names()
    engine.dispose()
    assert "versions" in names
    return sql


async def test_migrations_lead_to_the_schema_of_a_new_catalog(tmp_path):
    """From nothing, step by step, to the same tables, indexes and options."""
    await (await open_catalog(str(tmp_path / "new.db"))).aclose()
    engine = create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    with engine.begin() as conn:
        schema.migrate(conn)
    engine.dispose()
    assert layout(tmp_path / "migrated.db") == layout(tmp_path / "new.db")
    catalog = await open_catalog(str(tmp_path / "migrated.db"))
    assert (await (await Writer.begin(catalog)).log("a")).version.number == 0
    await catalog.aclose()


NEXT_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "REVISION"


def upgrade() -> None:
    with op.batch_alter_table("facts") as table:
        table.add_column(sa.Column("note", sa.Text()))
"""


async def test_an_older_file_is_upgraded_when_it_is_opened(path, tmp_path, monkeypatch):
    """Once, with everything in it; `upgrade` on one that is current changes nothing."""
    catalog = await open_catalog(str(path))
    await catalog.set_fact("k", "v")
    await catalog.aclose()
    migrations = shutil.copytree(schema.MIGRATIONS, tmp_path / "migrations")
    text_of_next = NEXT_REVISION.replace("REVISION", schema.REVISIONS[-1])
    (migrations / "versions" / "next.py").write_text(text_of_next)
    monkeypatch.setattr(schema, "MIGRATIONS", migrations)
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "next"))
    for _ in range(2):
        catalog = await open_catalog(str(path))
        assert await catalog.get_fact("k") == "v"
        note = await catalog.database.read(
            lambda conn: conn.execute(text("SELECT note FROM facts")).all()
        )
        assert note == [(None,)]
        await catalog.aclose()
        await upgrade(str(path))
    monkeypatch.undo()
    with pytest.raises(Invalid, match=r"has schema next.*use a newer asyncart"):
        await open_catalog(str(path))


def test_opening_a_new_catalog_does_not_import_alembic(path):
    """It costs a quarter of a second."""
    program = (
        "import sys, anyio, asyncart.catalog as c; assert 'sqlalchemy' not in sys.modules;"
        "anyio.run(c.open_catalog, sys.argv[1]); assert 'alembic' not in sys.modules;"
        "assert 'sqlalchemy.ext.asyncio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


# locks and waiting


async def test_a_hung_process_is_named_after_a_bounded_wait(path, monkeypatch):
    """Reads and writes alike say who holds the lock; when it is gone, nothing has to be unlocked."""
    catalog = await open_catalog(str(path))
    monkeypatch.setattr(sqlite, "STALL_S", 0.5)
    with locked(path) as pid:
        for call in (catalog.set_fact("k", "v"), catalog.get_fact("k")):
            with pytest.raises(Unavailable) as caught:
                await call
            assert str(path) in str(caught.value)
            assert "database is locked" not in str(caught.value)
            if sys.platform == "linux":
                assert str(pid) in str(caught.value)
    await catalog.set_fact("k", "v")
    assert await catalog.get_fact("k") == "v"
    await catalog.aclose()


async def test_waiting_goes_on_while_others_make_progress(path, monkeypatch):
    """Longer than the limit for a stall, if the file changes meanwhile."""
    catalog = await open_catalog(str(path))
    monkeypatch.setattr(sqlite, "STALL_S", 0.6)
    with locked(path):
        with anyio.move_on_after(2.5) as scope:
            async with anyio.create_task_group() as tasks:

                async def touch() -> None:
                    while True:
                        os.utime(path)
                        await anyio.sleep(0.1)

                tasks.start_soon(touch)
                await catalog.set_fact("k", "v")
        assert scope.cancelled_caught
    await catalog.aclose()


@pytest.mark.parametrize("how", ["anyio", "asyncio"])
@pytest.mark.parametrize("write", [True, False])
async def test_a_waiting_caller_can_be_cancelled_promptly(path, how, write):
    """And leaves no lock, thread or half a write behind."""
    catalog = await open_catalog(str(path))
    call = catalog.set_fact("k", "cancelled") if write else catalog.get_fact("k")
    started = time.monotonic()
    with locked(path):
        if how == "anyio":
            with anyio.move_on_after(0.2) as scope:
                await call
            assert scope.cancelled_caught
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await call
    assert time.monotonic() - started < 5  # a second, and a process that starts and ends
    assert await catalog.get_fact("k") is None
    await catalog.set_fact("k", "v")
    assert await catalog.get_fact("k") == "v"
    await catalog.aclose()


async def test_a_verb_that_fails_leaves_nothing_behind(path):
    """Neither rows nor a lock, and the connection is used again."""
    catalog = await open_catalog(str(path))

    def fail(conn) -> None:
        conn.execute(text("INSERT INTO facts VALUES ('half', 'x')"))
        raise NotFound("no")

    for _ in range(20):
        with pytest.raises(NotFound):
            await catalog.database.write(fail)
    assert await catalog.get_fact("half") is None
    assert len(catalog.database._idle) == 1
    await catalog.aclose()


# forks and kills


def test_the_children_of_a_fork_use_the_catalog_of_their_parent(path):
    """The same object, opened and used before the fork, with a loop of their own."""
    catalog = anyio.run(open_catalog, str(path))

    async def log(text: str) -> int:
        return (await (await Writer.begin(catalog)).log(text)).version.number

    assert anyio.run(log, "parent") == 0
    children = []
    for number in range(4):
        pid = os.fork()
        if not pid:
            try:
                anyio.run(log, f"child {number}")
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(pid)
    assert anyio.run(log, "parent again") <= 5
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    assert anyio.run(log, "parent at last") == 6
    anyio.run(catalog.aclose)


def test_a_fork_waits_for_a_transaction_that_is_under_way(path):
    """Forked in the middle of one, the child would believe to hold the parent's lock."""
    catalog = anyio.run(open_catalog, str(path))
    begun, release = threading.Event(), threading.Event()

    def slow(conn) -> None:
        conn.execute(text("INSERT INTO facts VALUES ('slow', 'x')"))
        begun.set()
        assert release.wait(30)

    thread = threading.Thread(target=lambda: anyio.run(catalog.database.write, slow))
    thread.start()
    assert begun.wait(30)
    threading.Timer(0.2, release.set).start()
    pid = os.fork()
    if not pid:
        try:
            assert anyio.run(catalog.get_fact, "slow") == "x"
            anyio.run(catalog.set_fact, "child", "x")
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert release.is_set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    thread.join()
    assert anyio.run(catalog.get_fact, "child") == "x"
    anyio.run(catalog.aclose)


def test_a_fork_does_not_wait_for_ever(path, monkeypatch):
    """The child of such a fork is told that it cannot use the catalog; the parent goes on."""
    catalog = anyio.run(open_catalog, str(path))
    monkeypatch.setattr(sqlite, "FORK_PATIENCE_S", 0.1)
    begun, release = threading.Event(), threading.Event()

    def slow(conn) -> None:
        begun.set()
        assert release.wait(30)

    thread = threading.Thread(target=lambda: anyio.run(catalog.database.write, slow))
    thread.start()
    assert begun.wait(30)
    pid = os.fork()
    if not pid:
        try:
            anyio.run(catalog.get_fact, "k")
        except Unavailable as error:
            os._exit(0 if "spawn" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    release.set()
    thread.join()
    anyio.run(catalog.set_fact, "k", "v")
    anyio.run(catalog.aclose)


async def _log_for_ever(path: str, told: int) -> None:
    catalog = await open_catalog(path)
    writer = await Writer.begin(catalog)
    for count in range(1_000_000):
        committed = await writer.log(f"{os.getpid()} {count}")
        os.write(told, f"{committed.version.number}\n".encode())


def test_a_kill_at_any_time_leaves_a_whole_catalog(path):
    """Twelve kills, each somewhere in a stream of commits: every version that was reported is
    there, numbers are contiguous, and the next writer needs no unlocking."""
    anyio.run(_make, str(path))
    reported: list[int] = []
    for round_ in range(12):
        read_end, write_end = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read_end)
            anyio.run(_log_for_ever, str(path), write_end)
        os.close(write_end)
        with os.fdopen(read_end) as lines:
            reported += [int(lines.readline()) for _ in range(1 + round_ % 3)]
            time.sleep(0.0007 * round_)  # another place in the transaction each time
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            reported += [int(line) for line in lines if line.endswith("\n")]
        anyio.run(_check_whole, str(path), reported)


async def _make(path: str) -> None:
    await (await open_catalog(path)).aclose()


async def _check_whole(path: str, reported: list[int]) -> None:
    catalog = await open_catalog(path)
    versions = await catalog.list_versions(BIKES)
    numbers = [version.number for version in reversed(versions)]
    assert numbers == list(range(len(numbers)))
    assert set(reported) <= set(numbers)
    assert (await catalog.resolve(BIKES, "latest")).number == numbers[-1]
    checks = ("PRAGMA integrity_check", "PRAGMA foreign_key_check")
    found = await catalog.database.read(
        lambda conn: [conn.execute(text(check)).all() for check in checks]
    )
    assert found == [[("ok",)], []]
    await catalog.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_upload_of_a_killed_process_is_adopted_at_once(path):
    """Without waiting for its lease; its objects stay until then."""
    anyio.run(_make, str(path))
    object_id = fresh_object()

    async def upload() -> None:
        catalog = await open_catalog(str(path))
        session = await catalog.begin_session("me")
        await catalog.register_upload(session, object_id, "token", "source")
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if not pid:
        anyio.run(upload)
    os.waitpid(pid, 0)

    async def adopt() -> None:
        catalog = await open_catalog(str(path))
        assert (await catalog.collect()).condemned == 0
        session = await catalog.begin_session("me")
        upload = await catalog.adopt_upload(session, "source")
        assert upload is not None
        assert upload.object_id == object_id
        await catalog.aclose()

    anyio.run(adopt)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_owners_that_cannot_be_judged_are_alive():
    """Gone is only who certainly ran here, and does not any more."""
    mine = owner.this_process()
    place, pid, started = mine.rsplit(" ", 2)
    assert not owner.is_gone(mine)
    assert owner.is_gone(f"{place} {pid} {int(started) - 1}")  # its id was given again
    assert not owner.is_gone(f"{place} 1 0")
    assert not owner.is_gone(f"elsewhere {pid} 1")
    for unknown in ("", "x", "a b c", f"{place} x y"):
        assert not owner.is_gone(unknown)
    child = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL)
    seen = f"{place} {child.pid} {owner._started(child.pid)}"
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_gone(seen)  # a zombie
    child.wait()
    assert owner.is_gone(seen)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_sessions_that_are_long_over_are_forgotten_without_a_collection(path, monkeypatch):
    """While others begin: all but those that the next attempt may continue, or whose process may live."""
    monkeypatch.setattr(sessions, "FORGETS_EVERY", 4)
    monkeypatch.setattr(sessions, "LOOKS_AT", 8)
    catalog = await open_catalog(str(path))
    place, pid, started = owner.this_process().rsplit(" ", 2)
    gone = f"{place} {pid} {int(started) - 1}"
    kept = await catalog.begin_session("me")  # its process may wake up again
    lease = await catalog.begin_session("me")
    await catalog.end_session(lease)
    left = [await catalog.begin_session("me") for _ in range(20)]
    killed, ended = left[:10], left[10:]
    for session_id in ended:
        await catalog.end_session(session_id)
    by_id = tables.sessions.c.public_id
    late = update(tables.sessions).where(by_id != lease).values(expires_at=1.0)
    died = update(tables.sessions).where(by_id.in_(killed)).values(owner=gone)
    for change in (late, died):
        await catalog.database.write(lambda conn, change=change: conn.execute(change) and None)
    new = [await catalog.begin_session("me") for _ in range(16)]
    there = await catalog.database.read(
        lambda conn: list(conn.execute(select(by_id).order_by(tables.sessions.c.id)).scalars())
    )
    assert there == [kept, lease, *new]
    await catalog.renew_session(kept)
    await catalog.aclose()


# the disk


async def test_a_full_disk_is_an_error_and_the_catalog_stays_whole(disk_1_mib):
    """Reading goes on, what was not written is not there, and with space again writing goes on."""
    catalog = await open_catalog(str(disk_1_mib / "catalog.db"))
    writer = await Writer.begin(catalog)
    await writer.log("a")
    filler = disk_1_mib / "filler"
    filler.write_bytes(b"x" * (300 << 10))
    texts = [f"text {number}" for number in range(8000)]

    async def fill() -> None:
        for start in range(100):
            await writer.store(*[f"{start} {text}" for text in texts])

    with pytest.raises(Unavailable, match="the disk is full, nothing of this was written"):
        await fill()
    assert (await catalog.resolve(BIKES, "latest")).number == 0
    filler.unlink()
    pack = await writer.store(*texts[:100])
    assert (await writer.log("b", objects=[pack])).version.number == 1
    found = await writer.stored("text 0")
    assert found[digest("text 0")].extents[0].object_id == pack
    await catalog.aclose()


async def test_a_catalog_is_refused_where_there_is_no_space_for_it(disk_1_mib):
    (disk_1_mib / "filler").write_bytes(b"x" * (980 << 10))
    with pytest.raises(Unavailable, match=r"catalog\.db: the disk is full"):
        await open_catalog(str(disk_1_mib / "catalog.db"))


def test_the_catalog_is_a_sql_catalog(path):
    """The concrete type is what the contract suite looks inside."""
    assert isinstance(anyio.run(open_catalog, str(path)), SqlCatalog)
