"""Look at this machine and at the catalog, without creating or changing anything that stays.

The catalog's file is opened read-only before anything else: opening it in earnest upgrades an older schema,
which is not a doctor's business.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ..config import Settings
from ..errors import Denied, Invalid, Unavailable
from ..net.plane import public_url
from ..stores import disk, links
from ..stores.checksums import is_available as has_checksums
from ..threads import run_blocking
from .diagnose_store import nearest_folder
from .findings import Checkup, State
from .leftovers import leftovers
from .workspace import DEFAULT_STORE, how_to_meet

LITTLE_BYTES = 1 << 30
FEW_FILES = 256  # open at once: connections, packs, the user's own
# SQLite's locks, and ours, are only as good as the file system's.
NETWORK_KINDS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre"}
)


async def check_machine(settings: Settings, checkup: Checkup, *, needs_checksums: bool) -> None:
    home = settings.home
    if await checkup.check("home", lambda: _home(home, checkup)):
        await checkup.check("free space", lambda: _free_space(home, checkup), state=State.WARNING)
        await checkup.check("file system", lambda: _file_system(home, checkup), state=State.WARNING)
        await checkup.check("reflinks", lambda: _reflinks(home, checkup), state=State.WARNING)
        await checkup.check("caches", lambda: _caches(settings, checkup), state=State.WARNING)
    _limits(checkup)
    if needs_checksums:
        checkup.answer(
            "checksum code",
            await run_blocking(has_checksums),
            "awscrt is here: uploads carry checksums where the store verifies them",
            "awscrt is not installed: uploads carry no checksum; pip install 'asyncart[s3]'",
            or_else=State.NOTE,
        )


async def check_catalog(settings: Settings, checkup: Checkup) -> None:
    url = settings.catalog_url
    path = _sqlite_path(url)
    if path is not None:
        checkup.ok("SQLite", f"{sqlite3.sqlite_version}", sqlite3.sqlite_version)
        if not await run_blocking(os.path.exists, path):
            checkup.ok("catalog", f"{path}: not made yet; the first run makes it")
            return
        await checkup.check("schema", lambda: _schema(path, checkup))
        if not checkup.is_ok("schema"):
            return  # opening an older one would upgrade it
    await checkup.check("catalog", lambda: _open(settings, checkup))


def _sqlite_path(url: str) -> str | None:
    """As the catalog understands it; None for another database."""
    if "://" not in url:
        return url
    if url.startswith("sqlite:"):
        return url.removeprefix("sqlite://").removeprefix("/")
    return None


class _Peek(NamedTuple):
    journal: str
    revision: str | None


async def _schema(path: str, checkup: Checkup) -> None:
    from ..catalog.schema import REVISIONS

    found = await run_blocking(_peek, path)
    if found.journal == "wal":
        checkup.warn(
            "journal", "WAL, which asyncart never sets: several writers may damage it", "wal"
        )
    else:
        checkup.ok("journal", f"rollback ({found.journal})", found.journal)
    if found.revision is None:
        raise Invalid(f"{path}: is the database of something else, or empty; set ASYNCART_CATALOG")
    if found.revision not in REVISIONS:
        raise Invalid(
            f"{path}: has schema {found.revision}, from a newer asyncart; upgrade this one"
        )
    if found.revision == REVISIONS[-1]:
        checkup.ok("schema", f"{found.revision}, today's", found.revision)
    else:
        checkup.note("schema", f"{found.revision}: the next run upgrades it", found.revision)


def _peek(path: str) -> _Peek:
    with contextlib.closing(
        sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True, timeout=10)
    ) as database:
        try:
            journal = database.execute("PRAGMA journal_mode").fetchone()[0]
            known = database.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
            ).fetchone()
            row = (
                database.execute("SELECT version_num FROM alembic_version").fetchone()
                if known
                else None
            )
        except sqlite3.Error as error:
            raise Unavailable(f"{path}: cannot be read: {error}") from error
    return _Peek(str(journal), None if row is None else str(row[0]))


async def _open(settings: Settings, checkup: Checkup) -> None:
    from ..catalog import open_catalog

    shown = public_url(settings.catalog_url) if "://" in settings.catalog_url else ""
    catalog = await open_catalog(settings.catalog_url)
    try:
        names = await catalog.list_collections(settings.entity)
        objects_at = await catalog.get_fact("store")
    finally:
        await catalog.aclose()
    wanted = settings.objects or DEFAULT_STORE
    if objects_at not in (None, wanted):
        raise Invalid(
            f"its objects are in {objects_at}, not in {wanted}; {how_to_meet(objects_at)}"
        )
    checkup.ok(
        "catalog",
        f"{shown or settings.catalog_url}: opens; {len(names)} artifacts of {settings.entity}",
        len(names),
    )


# Each of these in a worker thread: a network file system may hang


async def _home(home: str, checkup: Checkup) -> None:
    await run_blocking(_try_to_write, home)
    is_there = await run_blocking(os.path.isdir, home)
    made = "can be written" if is_there else "not made yet; the first run makes it"
    checkup.ok("home", f"{home}: {made}", home)


def _try_to_write(home: str) -> None:
    place = nearest_folder(home)
    try:
        if place != os.path.abspath(home):
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"asyncart")
            file.flush()
            os.fsync(file.fileno())
    except PermissionError as error:
        raise Denied(
            f"{place}: cannot be written; set ASYNCART_HOME to a folder of yours"
        ) from error
    except NotADirectoryError as error:
        raise Invalid(f"{home}: is not a folder; set ASYNCART_HOME to another one") from error


async def _free_space(home: str, checkup: Checkup) -> None:
    free = (await run_blocking(shutil.disk_usage, nearest_folder(home))).free
    text = f"{disk.size_text(free)} free"
    if free < LITTLE_BYTES:
        checkup.warn("free space", f"{text}: little for caches and downloads", free)
    else:
        checkup.ok("free space", text, free)


async def _file_system(home: str, checkup: Checkup) -> None:
    place = nearest_folder(home)
    kind = await run_blocking(file_system_kind, place)
    if kind in NETWORK_KINDS:
        checkup.warn(
            "file system",
            f"{kind}: the catalog wants locks that such file systems do not always keep; "
            "set ASYNCART_HOME to a local disk",
            kind,
        )
    else:
        checkup.ok("file system", kind, kind)


def file_system_kind(path: str) -> str:
    """Such as "ext4"; "unknown" where the system does not say (it does on Linux)."""
    mount = disk.mount_point(path)
    kind = "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
            fields = line.split(" ")
            name = fields[4].encode("latin-1", "replace").decode("unicode_escape")
            if name == mount:  # the last one hides those before it
                kind = fields[fields.index("-") + 1]
    return kind


async def _reflinks(home: str, checkup: Checkup) -> None:
    if not await run_blocking(os.path.isdir, home):
        return
    checkup.answer(
        "reflinks",
        await run_blocking(_can_reflink, home),
        "files share their blocks with stored objects",
        "this file system cannot share blocks: files are copied",
        or_else=State.NOTE,
    )


def _can_reflink(folder: str) -> bool:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as place:
        source = Path(place, "source")
        source.write_bytes(bytes(64 << 10))
        return links.reflink(str(source), str(Path(place, "target")))


async def _caches(settings: Settings, checkup: Checkup) -> None:
    nbytes = sum(kind.bytes for kind in await run_blocking(leftovers, settings))
    text = f"{disk.size_text(nbytes)} kept for speed; `asyncart cache ls` lists them"
    checkup.ok("caches", text, nbytes)


def _limits(checkup: Checkup) -> None:
    checkup.ok("cores", str(os.cpu_count() or 1), os.cpu_count() or 1)
    if sys.platform == "win32":
        return
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{files} open files allowed"
    if 0 <= files < FEW_FILES:
        checkup.warn("limits", f"{text}: few; raise it with `ulimit -n`", files)
    else:
        checkup.ok("limits", text if files >= 0 else "any number of open files", files)
