"""Digests of local files, remembered by their stat: what did not change is not read again.

One row per folder, its files as columns in one blob: 100,000 files in 100 folders load in 15 ms where
a row per file takes 120 ms. A file's digest is believed only if device, inode, size, mtime and ctime
are all the same, and only stamps that were older than `RACY_NS` when they were seen are recorded (git's
racy rule: a change within the granularity of the clock leaves no trace in the stamp).

The cache is a convenience of one machine: losing it costs a read, never data. So it is written without
waiting for the disk, and a damaged file is thrown away. What a power cut leaves may be one row's old and new
pages together, stamps of today beside digests of yesterday: each row carries a checksum (0.02 ms for 1,000
files), and is nothing without it.
"""

from __future__ import annotations

import contextlib
import operator
import os
import sqlite3
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import compress, count
from pathlib import Path
from typing import TypeVar

import msgspec
from blake3 import blake3

T = TypeVar("T")

RACY_NS = 2_000_000_000  # git's rule; FAT stamps are that coarse, and clocks of file servers differ
CHECKSUM_BYTES = 16
# Written with one statement. A checksum and a statement let go of the GIL; when that is over within 20 us, as for
# one folder, it wakes the caller's event loop and takes the GIL back before the loop is there, again and again:
# it stood still for 32-64 ms while 1,000 folders were written down one by one.
ROWS_AT_ONCE = 64
# With rowids: a search in a table without them reads every blob that it compares a path with (folders of
# 1,000 files: 90 KB each, 180 KB to write down one downloaded file).
SCHEMA = "CREATE TABLE IF NOT EXISTS folders (path TEXT PRIMARY KEY, files BLOB NOT NULL)"


class _Columns(msgspec.Struct, array_like=True, gc=False):
    device: int
    names: list[str]
    stamps: bytes  # int64 columns, one after the other: inode, size, mtime_ns, ctime_ns
    digests: bytes
    realm: str = ""
    object_ids: list[str] = []
    object_of: bytes = b""  # int32 column: which of the object ids, or -1
    offsets: bytes = b""  # int64 column


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Columns).decode


class Stamp(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What identifies an unchanged file inside its folder. Times are nanoseconds.

    As many of them are made as there are files. If the garbage collector tracked them, their number would
    make it walk through the whole heap in the middle of a transfer, and the caller's event loop stand
    still: 34-113 ms at worst while 100,000 files were downloaded, 17-24 ms now.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, st: os.stat_result) -> Stamp:
        return cls(signed(st.st_ino), st.st_size, st.st_mtime_ns, st.st_ctime_ns)

    def has_same_content_as(self, other: Stamp) -> bool:
        """Equal but for the ctime, which a new name changes as well."""
        return (self.inode, self.size, self.mtime_ns) == (other.inode, other.size, other.mtime_ns)


class Known(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of one file: its digest, and where in the store its bytes lie (if known)."""

    name: str
    stamp: Stamp
    digest: bytes
    object_id: str = ""
    offset: int = 0


def signed(inode: int) -> int:
    """Inode numbers are unsigned 64 bit (NTFS uses all of them); our columns are signed."""
    return inode - (1 << 64) if inode >> 63 else inode


def is_text(name: str) -> bool:
    """Whether the name of a local file is UTF-8; the others are not remembered."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


MODE, DEVICE, CELLS = 4, 5, 6  # of the cells of one file: the stamp, the mode, the device


def cells_of(st: os.stat_result) -> tuple[int, int, int, int, int, int]:
    """What a scan keeps of a file's stat. Not the stat itself: a thousand of them wake the garbage
    collector again and again, which cost 0.4 ms per folder of 1,000 files."""
    return (st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_mode, st.st_dev)


def columns_of(cells: list[int]) -> array[int]:
    """The stamps of some files as columns, one after the other, as `Folder` holds them."""
    columns = array("q")
    inodes = cells[::CELLS]
    if max(inodes, default=0) >> 63:
        inodes = [signed(inode) for inode in inodes]
    columns.extend(inodes)
    for column in range(1, MODE):
        columns.extend(cells[column::CELLS])
    return columns


class Folder:
    """What is known of one folder's files. `find` answers None for anything that is not certain.

    Places are hints for the catalog of the same realm: it refuses a commit that names an object which is
    not there any more.
    """

    __slots__ = ("_columns", "_object_of", "_offsets", "_rows", "_stamps", "device", "object_ids")

    def __init__(self, columns: _Columns | None = None, realm: str = "") -> None:
        """Raises ValueError if the columns do not fit together: somebody damaged them."""
        self._columns = columns or _Columns(-1, [], b"", b"")
        n = len(self._columns.names)
        if len(self._columns.stamps) != 32 * n or len(self._columns.digests) != 32 * n:
            raise ValueError(f"{n} names, but not as many stamps and digests")
        self.device = self._columns.device
        self._rows: dict[str, int] | None = None
        self._stamps = array("q", self._columns.stamps)
        has_places = self._columns.realm == realm
        self.object_ids = self._columns.object_ids if has_places else []
        self._object_of = array("i", self._columns.object_of if has_places else b"")
        self._offsets = array("q", self._columns.offsets if has_places else b"")

    def __len__(self) -> int:
        return len(self._columns.names)

    def changed_rows(
        self, names: Sequence[str], device: int, stamps: array[int]
    ) -> set[int] | None:
        """If these are exactly its files: the rows of those whose stamp is another one; else None."""
        if device != self.device or names != self._columns.names:
            return None
        if stamps == self._stamps:  # in C, whatever their number
            return set()
        n = len(names)
        is_other = map(operator.ne, stamps, self._stamps)
        return {cell % n for cell in compress(count(), is_other)}

    @property
    def digests(self) -> bytes:
        return self._columns.digests

    def places(self) -> tuple[array[int], array[int]]:
        """Which of `object_ids` (or -1), and at which offset, for each file."""
        n = len(self)
        if len(self._object_of) != n or len(self._offsets) != n:
            return array("i", [-1]) * n, array("q", [0]) * n
        return self._object_of, self._offsets

    def find(self, name: str, device: int, stamp: Stamp) -> Known | None:
        if self._rows is None:
            self._rows = {known: row for row, known in enumerate(self._columns.names)}
        row = self._rows.get(name)
        if row is None or device != self.device or stamp != self._stamp(row):
            return None
        return self._known(row)

    def digest(self, name: str, device: int, stamp: Stamp) -> bytes | None:
        known = self.find(name, device, stamp)
        return None if known is None else known.digest

    def all(self) -> list[Known]:
        return [self._known(row) for row in range(len(self))]

    def _known(self, row: int) -> Known:
        columns = self._columns
        digest = columns.digests[32 * row : 32 * row + 32]
        index = self._object_of[row] if row < len(self._object_of) else -1
        object_id = self.object_ids[index] if index >= 0 else ""
        offset = self._offsets[row] if index >= 0 else 0
        return Known(columns.names[row], self._stamp(row), digest, object_id, offset)

    def _stamp(self, row: int) -> Stamp:
        stamps, n = self._stamps, len(self)
        return Stamp(stamps[row], stamps[n + row], stamps[2 * n + row], stamps[3 * n + row])


def packed(device: int, files: Sequence[Known], realm: str = "") -> bytes:
    """A folder's files, sorted by name, as what `unpacked` reads and `StatCache.save` takes."""
    stamps = array("q")
    stamps.extend([known.stamp.inode for known in files])
    stamps.extend([known.stamp.size for known in files])
    stamps.extend([known.stamp.mtime_ns for known in files])
    stamps.extend([known.stamp.ctime_ns for known in files])
    object_ids = list(dict.fromkeys(known.object_id for known in files if known.object_id))
    index_of = {object_id: index for index, object_id in enumerate(object_ids)}
    return packed_columns(
        device,
        [known.name for known in files],
        stamps,
        b"".join([known.digest for known in files]),
        realm,
        object_ids,
        array("i", [index_of.get(known.object_id, -1) for known in files]),
        array("q", [known.offset for known in files]),
    )


def packed_columns(
    device: int,
    names: list[str],
    stamps: array[int],
    digests: bytes,
    realm: str,
    object_ids: list[str],
    object_of: array[int],
    offsets: array[int],
) -> bytes:
    """The same from columns."""
    return _encode(
        _Columns(
            device,
            names,
            stamps.tobytes(),
            digests,
            realm,
            object_ids,
            object_of.tobytes(),
            offsets.tobytes(),
        )
    )


def unpacked(body: bytes | memoryview, realm: str = "") -> Folder:
    """The folder that `packed` took. Raises msgspec.DecodeError for what does not have its form."""
    return Folder(_decode(body), realm)


def sealed(body: bytes) -> bytes:
    """What a row holds: the packed folder behind its checksum."""
    return _checksum(body) + body


def unsealed(blob: bytes) -> memoryview:
    """The packed folder of a row. Raises ValueError where it is not what was written."""
    body = memoryview(blob)[CHECKSUM_BYTES:]
    if _checksum(body) != blob[:CHECKSUM_BYTES]:
        raise ValueError("its checksum is not that of its bytes")
    return body


def _checksum(body: bytes | memoryview) -> bytes:
    return blake3(body).digest(length=CHECKSUM_BYTES)


class StatCache:
    """All folders of this machine, in one SQLite file. Safe for threads and for several processes."""

    def __init__(self, path: str, realm: str = "") -> None:
        """`realm` names the catalog and the store that remembered places belong to."""
        self._path = path
        self.realm = realm
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        _caches.add(self)

    def load(self, folder: str) -> Folder:
        """What is known of the folder (an absolute path); empty if nothing."""
        if not is_text(folder):
            return Folder()
        row = self._attempt(
            lambda db: db.execute("SELECT files FROM folders WHERE path = ?", (folder,)).fetchone()
        )
        try:
            return unpacked(unsealed(row[0]), self.realm) if row else Folder()
        except (TypeError, ValueError, msgspec.DecodeError):
            return Folder()

    def save(self, folders: Iterable[tuple[str, bytes]]) -> None:
        """Replace the rows of these folders (see `packed`)."""
        rows = [row for row in folders if is_text(row[0])]

        def write(db: sqlite3.Connection) -> None:
            with db:
                for start in range(0, len(rows), ROWS_AT_ONCE):
                    some = rows[start : start + ROWS_AT_ONCE]
                    values = ", ".join(["(?, ?)"] * len(some))
                    cells = [cell for folder, body in some for cell in (folder, sealed(body))]
                    db.execute(f"INSERT OR REPLACE INTO folders VALUES {values}", cells)

        self._attempt(write)

    def merged(self, folder: str, device: int, files: Iterable[Known]) -> bytes:
        """The folder, packed, with these files new or replaced, the others as they are."""
        before = self.load(folder)
        kept = {known.name: known for known in before.all()} if before.device == device else {}
        kept.update((known.name, known) for known in files)
        return packed(device, [kept[name] for name in sorted(kept)], self.realm)

    def clear(self) -> None:
        """Forget everything, and give the space back."""

        def empty(db: sqlite3.Connection) -> None:
            with db:
                db.execute("DELETE FROM folders")
            db.execute("VACUUM")

        self._attempt(empty)

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    def _forget_in_child(self) -> None:
        self._lock = threading.Lock()  # a thread that is not here may have held it
        if self._db is not None:
            _of_parents.append(self._db)
            self._db = None

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `work` gives; None where the cache cannot be used this time."""
        with self._lock:
            try:
                return work(self._connection())
            except sqlite3.DatabaseError as error:
                self._discard(error)
            except OSError:
                pass  # there is no folder for it
            return None

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, timeout=30, check_same_thread=False)
            try:
                db.execute("PRAGMA synchronous=OFF")
                db.execute("PRAGMA journal_mode=TRUNCATE")
                db.execute(SCHEMA)
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db

    def _discard(self, error: sqlite3.DatabaseError) -> None:
        if isinstance(error, sqlite3.OperationalError):
            return  # locked for 30 s, disk full: the cache is only not used this time
        with contextlib.suppress(OSError, sqlite3.Error):
            if self._db is not None:
                self._db.close()
            os.unlink(self._path)
        self._db = None


_caches: weakref.WeakSet[StatCache] = weakref.WeakSet()
_of_parents: list[sqlite3.Connection] = []  # kept, so that no forked child ever closes one


def _forget_in_child() -> None:
    for cache in list(_caches):
        cache._forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
