"""The files of a draft as columns: 1,000,000 of them must fit in well under 200 MB.

A row is a path in the artifact and the local file it comes from. Rows are sorted by path before they
are used. Digests and placements are filled in as the work goes on, by row; rows are independent, so
worker threads write to them without a lock.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence

from ..model import Chunk, Content, Entry, Extent
from .statcache import RACY_NS, Folder, Stamp, StatCache, columns_of, packed

EXECUTABLE = 1
KNOWN = 2  # the digest column is filled
FROM_CACHE = 4  # ... by the stat cache: the file was not read
IMMUTABLE = 8  # the user's word: it may be linked instead of copied
OVERWRITES = 16  # the user's word: it replaces what has the same path

_AS_KNOWN = bytes(flag | KNOWN | FROM_CACHE for flag in range(256))

NOWHERE = -1  # not placed yet (or empty: nothing to place)
APART = -2  # placement is in `contents`, not in the columns


class Listing:
    def __init__(self) -> None:
        self.paths: list[str] = []
        self.sizes = array("q")
        self.inodes = array("q")
        self.mtimes = array("q")
        self.ctimes = array("q")
        self.flags = bytearray()
        self.digests = bytearray()
        self.folder_of = array("I")
        self.folders: list[str] = []
        self.devices: list[int] = []
        self.cached: list[int] = []  # how many files the stat cache knew of the folder
        self.whole: list[bool] = []  # the folder was scanned; else only single files of it are here
        self._named: dict[int, str] = {}  # rows whose local name is not the path's last component
        self.object_of = array("i")
        self.offsets = array("q")
        self.object_ids: list[str] = []
        self._object_rows: dict[str, int] = {}
        self.contents: dict[int, Content] = {}

    def __len__(self) -> int:
        return len(self.paths)

    # building

    def add_folder(self, local: str, device: int, cached: int, is_whole: bool) -> int:
        self.folders.append(local)
        self.devices.append(device)
        self.cached.append(cached)
        self.whole.append(is_whole)
        return len(self.folders) - 1

    def add(
        self,
        paths: Sequence[str],
        names: Sequence[str],
        folder: int,
        stats: Sequence[os.stat_result],
        flags: int,
        known: Folder,
    ) -> None:
        """Add files of one folder; `names` are their local names, `known` what the stat cache knows."""
        columns = columns_of(stats)
        n = len(paths)
        self.paths += paths
        self.folder_of.extend([folder] * n)
        for column, target in enumerate((self.inodes, self.sizes, self.mtimes, self.ctimes)):
            target.extend(columns[column * n : column * n + n])
        flagged = bytearray(flags | (EXECUTABLE if st.st_mode & 0o100 else 0) for st in stats)
        device = self.devices[folder]
        digests = None
        if all(st.st_dev == device for st in stats):
            digests = known.all_digests(names, device, columns)
        if digests is not None:
            self.flags += flagged.translate(_AS_KNOWN)
            self.digests += digests
            return
        for row, (name, st) in enumerate(zip(names, stats, strict=True)):
            digest = known.digest(name, st.st_dev, Stamp.of(st)) if len(known) else None
            self.digests += digest or bytes(32)
            if digest is not None:
                flagged[row] |= KNOWN | FROM_CACHE
        self.flags += flagged

    def name_locally(self, row: int, name: str) -> None:
        self._named[row] = name

    def is_sorted(self) -> bool:
        paths = self.paths
        return all(paths[i] < paths[i + 1] for i in range(len(paths) - 1))

    def reordered(self, rows: Sequence[int]) -> Listing:
        """The same folders, with only these rows, in this order. Only before anything is placed."""
        new = Listing()
        new.folders, new.devices = self.folders, self.devices
        new.cached, new.whole = self.cached, self.whole
        new.paths = [self.paths[i] for i in rows]
        new.flags = bytearray(self.flags[i] for i in rows)
        new.digests = bytearray(b"".join(self.digests[32 * i : 32 * i + 32] for i in rows))
        for column in ("sizes", "inodes", "mtimes", "ctimes", "folder_of"):
            old = getattr(self, column)
            setattr(new, column, array(old.typecode, [old[i] for i in rows]))
        if self._named:
            new._named = {j: self._named[i] for j, i in enumerate(rows) if i in self._named}
        return new

    # reading

    def local_path(self, row: int) -> str:
        name = self._named.get(row) or self.paths[row].rpartition("/")[2]
        return f"{self.folders[self.folder_of[row]]}/{name}"

    def stamp(self, row: int) -> Stamp:
        return Stamp(self.inodes[row], self.sizes[row], self.mtimes[row], self.ctimes[row])

    def digest(self, row: int) -> bytes:
        return bytes(self.digests[32 * row : 32 * row + 32])

    def unknown(self) -> list[int]:
        """Rows that have to be read."""
        return [i for i, flag in enumerate(self.flags) if not flag & KNOWN]

    # filling in

    def restamp(self, row: int, stamp: Stamp) -> None:
        """The file changed between the scan and its reading."""
        self.inodes[row], self.sizes[row], self.mtimes[row], self.ctimes[row] = stamp

    def set_digest(self, row: int, digest: bytes) -> None:
        self.digests[32 * row : 32 * row + 32] = digest
        self.flags[row] = self.flags[row] & ~FROM_CACHE | KNOWN

    def forget_digest(self, row: int) -> None:
        self.flags[row] &= ~(KNOWN | FROM_CACHE)

    def begin_placement(self) -> None:
        n = len(self)
        if len(self.offsets) != n:
            self.object_of = array("i", [NOWHERE]) * n
            self.offsets = array("q", [0]) * n

    def forget_placement(self) -> None:
        """What was believed to be stored is not any more: everything must be placed again."""
        self.object_of, self.offsets = array("i"), array("q")
        self.object_ids, self._object_rows, self.contents = [], {}, {}

    def place(self, row: int, object_id: str, offset: int) -> None:
        index = self._object_rows.get(object_id)
        if index is None:
            index = self._object_rows[object_id] = len(self.object_ids)
            self.object_ids.append(object_id)
        self.object_of[row] = index
        self.offsets[row] = offset

    def place_content(self, row: int, content: Content) -> None:
        if len(content.extents) == 1 and not content.chunks:
            extent = content.extents[0]
            self.place(row, extent.object_id, extent.offset)
        else:
            self.contents[row] = content
            self.object_of[row] = APART

    def unplaced(self) -> list[int]:
        """Rows with bytes that are not known to be stored anywhere."""
        return [i for i, o in enumerate(self.object_of) if o == NOWHERE and self.sizes[i]]

    def entries(self) -> Iterator[Entry]:
        """Every row as an entry; all must have a digest and a place."""
        for row, path in enumerate(self.paths):
            extents: tuple[Extent, ...] = ()
            chunks: tuple[Chunk, ...] = ()
            index = self.object_of[row]
            if index >= 0:
                extents = (Extent(self.object_ids[index], self.offsets[row], self.sizes[row]),)
            elif index == APART:
                content = self.contents[row]
                extents, chunks = content.extents, content.chunks
            yield Entry(
                path,
                bytes(self.digests[32 * row : 32 * row + 32]),
                self.sizes[row],
                extents,
                chunks,
                bool(self.flags[row] & EXECUTABLE),
            )

    def used_object_ids(self) -> set[str]:
        used = set(self.object_ids)
        for content in self.contents.values():
            used.update(extent.object_id for extent in content.extents)
        return used

    # remembering

    def remember(self, cache: StatCache, seen_at_ns: int, passing: str = "") -> None:
        """Write the digests of folders with news into the stat cache, but of none below `passing`.

        `seen_at_ns`: when the stamps were taken (at the earliest); younger stamps are not recorded,
        unless it is the user's word that the file does not change (linking it made its ctime young).
        """
        by_folder: dict[int, list[int]] = {}
        changed: set[int] = set()
        for row, flag in enumerate(self.flags):
            folder = self.folder_of[row]
            by_folder.setdefault(folder, []).append(row)
            if not flag & FROM_CACHE:
                changed.add(folder)
        changed.update(
            f for f, rows in by_folder.items() if self.whole[f] and len(rows) < self.cached[f]
        )
        trusted_before = seen_at_ns - RACY_NS
        cache.save(
            (self.folders[f], self._packed(f, by_folder[f], cache, trusted_before))
            for f in sorted(changed)
            if not (passing and self.folders[f].startswith(f"{passing}{os.sep}"))
        )

    def _packed(
        self, folder: int, rows: Iterable[int], cache: StatCache, trusted_before: int
    ) -> bytes:
        found: dict[str, tuple[str, Stamp, bytes]] = {}
        for row in rows:
            stamp = self.stamp(row)
            if self.flags[row] & KNOWN and (
                self.flags[row] & IMMUTABLE or max(stamp.mtime_ns, stamp.ctime_ns) < trusted_before
            ):
                name = self._named.get(row) or self.paths[row].rpartition("/")[2]
                found[name] = (name, stamp, self.digest(row))
        device = self.devices[folder]
        if self.whole[folder]:
            return packed(device, list(found.values()))
        return cache.merged(self.folders[folder], device, found.values())


__all__ = [
    "APART",
    "EXECUTABLE",
    "FROM_CACHE",
    "IMMUTABLE",
    "KNOWN",
    "NOWHERE",
    "OVERWRITES",
    "Listing",
]
