"""Digests of local files, remembered by their stat: what did not change is not read again.

One row per folder, its files as columns in one blob: 100,000 files in 100 folders load in 15 ms where
a row per file takes 120 ms. A file's digest is believed only if device, inode, size, mtime and ctime
are all the same, and only stamps that were older than `RACY_NS` when they were seen are recorded (git's
racy rule: a change within the granularity of the clock leaves no trace in the stamp).

The cache is a convenience of one machine: losing it costs a read, never data. So it is written without
waiting for the disk, and a damaged file is thrown away.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

RACY_NS = 2_000_000_000  # git's rule; FAT stamps are that coarse, and clocks of file servers differ
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS folders (path TEXT PRIMARY KEY, files BLOB NOT NULL) WITHOUT ROWID"
)


class _Columns(msgspec.Struct, array_like=True, gc=False):
    device: int
    names: list[str]
    stamps: bytes  # int64 columns, one after the other: inode, size, mtime_ns, ctime_ns
    digests: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Columns).decode


class Stamp(NamedTuple):
    """What identifies an unchanged file inside its folder. Times are nanoseconds."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, st: os.stat_result) -> Stamp:
        return cls(signed(st.st_ino), st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def signed(inode: int) -> int:
    """Inode numbers are unsigned 64 bit (NTFS uses all of them); our columns are signed."""
    return inode - (1 << 64) if inode >> 63 else inode


def columns_of(stats: Sequence[os.stat_result]) -> array[int]:
    """The stamps of some files as columns, one after the other, as `Folder` holds them."""
    columns = array("q")
    inodes = [st.st_ino for st in stats]
    if max(inodes, default=0) >> 63:
        inodes = [signed(inode) for inode in inodes]
    columns.extend(inodes)
    columns.extend([st.st_size for st in stats])
    columns.extend([st.st_mtime_ns for st in stats])
    columns.extend([st.st_ctime_ns for st in stats])
    return columns


class Folder:
    """What is known of one folder's files. `digest` answers None for anything that is not certain."""

    __slots__ = ("_digests", "_names", "_rows", "_stamps", "device")

    def __init__(self, columns: _Columns | None = None) -> None:
        self.device = columns.device if columns else -1
        self._names = columns.names if columns else []
        self._rows: dict[str, int] | None = None
        self._stamps = array("q", columns.stamps if columns else b"")
        self._digests = columns.digests if columns else b""

    def __len__(self) -> int:
        return len(self._names)

    def all_digests(self, names: Sequence[str], device: int, columns: array[int]) -> bytes | None:
        """The digests of exactly these files, if none of them changed; in C, whatever their number."""
        if device == self.device and columns == self._stamps and names == self._names:
            return self._digests
        return None

    def digest(self, name: str, device: int, stamp: tuple[int, int, int, int]) -> bytes | None:
        if self._rows is None:
            self._rows = {known: row for row, known in enumerate(self._names)}
        row = self._rows.get(name)
        if row is None or device != self.device or stamp != self._stamp(row):
            return None
        return self._digests[32 * row : 32 * row + 32]

    def items(self) -> Iterable[tuple[str, Stamp, bytes]]:
        for row, name in enumerate(self._names):
            yield name, self._stamp(row), self._digests[32 * row : 32 * row + 32]

    def _stamp(self, row: int) -> Stamp:
        stamps, n = self._stamps, len(self._names)
        return Stamp(stamps[row], stamps[n + row], stamps[2 * n + row], stamps[3 * n + row])


def packed(device: int, rows: Sequence[tuple[str, Stamp, bytes]]) -> bytes:
    """A folder's files as its blob."""
    stamps = array("q")
    for column in range(4):
        stamps.extend(stamp[column] for _, stamp, _ in rows)
    names = [name for name, _, _ in rows]
    digests = b"".join(digest for _, _, digest in rows)
    return _encode(_Columns(device, names, stamps.tobytes(), digests))


class StatCache:
    """All folders of this machine, in one SQLite file. Safe for threads and for several processes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._pid = 0
        self._db: sqlite3.Connection | None = None

    def load(self, folder: str) -> Folder:
        """What is known of the folder (an absolute path); empty if nothing."""
        with self._lock:
            try:
                row = (
                    self._connection()
                    .execute("SELECT files FROM folders WHERE path = ?", (folder,))
                    .fetchone()
                )
            except sqlite3.DatabaseError as error:
                self._discard(error)
                return Folder()
        try:
            return Folder(_decode(row[0])) if row else Folder()
        except (msgspec.DecodeError, ValueError):
            return Folder()

    def save(self, folders: Iterable[tuple[str, bytes]]) -> None:
        """Replace the rows of these folders (see `packed`)."""
        rows = list(folders)
        with self._lock:
            try:
                db = self._connection()
                with db:
                    db.executemany("INSERT OR REPLACE INTO folders VALUES (?, ?)", rows)
            except sqlite3.DatabaseError as error:
                self._discard(error)

    def merged(self, folder: str, device: int, rows: Iterable[tuple[str, Stamp, bytes]]) -> bytes:
        """The folder's blob with these files new or replaced, the others as they are."""
        before = self.load(folder)
        files = {item[0]: item for item in before.items()} if before.device == device else {}
        files.update((item[0], item) for item in rows)
        return packed(device, list(files.values()))

    def clear(self) -> None:
        """Forget everything, and give the space back."""
        with self._lock:
            try:
                db = self._connection()
                with db:
                    db.execute("DELETE FROM folders")
                db.execute("VACUUM")
            except sqlite3.DatabaseError as error:
                self._discard(error)

    def close(self) -> None:
        with self._lock:
            if self._db is not None and self._pid == os.getpid():
                self._db.close()
            self._db = None

    def _connection(self) -> sqlite3.Connection:
        # A forked child must not touch its parent's connection, not even to close it.
        if self._db is None or self._pid != os.getpid():
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, timeout=30, check_same_thread=False)
            db.execute("PRAGMA synchronous=OFF")
            db.execute("PRAGMA journal_mode=TRUNCATE")
            db.execute(SCHEMA)
            self._db, self._pid = db, os.getpid()
        return self._db

    def _discard(self, error: sqlite3.DatabaseError) -> None:
        if isinstance(error, sqlite3.OperationalError):
            return  # locked for 30 s, disk full: the cache is only not used this time
        with contextlib.suppress(OSError, sqlite3.Error):
            if self._db is not None:
                self._db.close()
            os.unlink(self._path)
        self._db = None
