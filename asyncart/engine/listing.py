"""The files of a draft as columns: 1,000,000 of them must fit in well under 200 MB.

A row is a path in the artifact and the local file it comes from. Rows are sorted by path before they
are used. Digests and placements are filled in as the work goes on, by row; rows are independent, so
worker threads write to them without a lock.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby

from ..model import Chunk, Content, Entry, Extent
from .manifest import BLOCK_ENTRIES
from .records import PlainFiles
from .statcache import (
    CELLS,
    DEVICE,
    MODE,
    RACY_NS,
    Folder,
    Known,
    Stamp,
    StatCache,
    columns_of,
    is_text,
    packed_columns,
)

EXECUTABLE = 1
KNOWN = 2  # the digest column is filled
FROM_CACHE = 4  # ... by the stat cache: the file was not read
IMMUTABLE = 8  # the user's word: it may be linked instead of copied
OVERWRITES = 16  # the user's word: it replaces what has the same path

_AS_KNOWN = bytes(flag | KNOWN | FROM_CACHE for flag in range(256))

_AS_READ = bytes(flag & ~FROM_CACHE | KNOWN for flag in range(256))

_AS_NEWS = bytes(flag & ~FROM_CACHE for flag in range(256))

_AS_EXECUTABLE = bytes(flag & EXECUTABLE for flag in range(256))

NOWHERE = -1  # not placed yet (or empty: nothing to place)
APART = -2  # placement is in `contents`, not in the columns


def _picked(column: array[int], rows: Sequence[int]) -> Sequence[int]:
    if isinstance(rows, range):
        return column[rows.start : rows.stop]
    return [column[row] for row in rows]


def is_run(rows: Sequence[int]) -> bool:
    """Whether ascending rows are consecutive: then columns are sliced, not picked."""
    return bool(rows) and rows[-1] - rows[0] + 1 == len(rows)


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
        cells: list[int],
        flags: int,
        known: Folder,
    ) -> None:
        """Add files of one folder; `names` are their local names, `cells` those of their stats, one
        file after the other, `known` what the stat cache knows."""
        columns = columns_of(cells)
        n = len(paths)
        self.paths += paths
        self.folder_of.extend([folder] * n)
        for column, target in enumerate((self.inodes, self.sizes, self.mtimes, self.ctimes)):
            target.extend(columns[column * n : column * n + n])
        flagged = bytearray([flags | mode >> 6 & EXECUTABLE for mode in cells[MODE::CELLS]])
        devices = cells[DEVICE::CELLS]
        device = self.devices[folder]
        changed = None
        if devices.count(device) == n:
            changed = known.changed_rows(names, device, columns)
        if changed is not None:
            self._add_known(flagged, known, changed)
            return
        if not len(known):
            self.digests += bytes(32 * n)
            self.object_of.extend([NOWHERE] * n)
            self.offsets.extend([0] * n)
            self.flags += flagged
            return
        stamps = zip(*(columns[column * n : column * n + n] for column in range(MODE)), strict=True)
        for row, (name, its_device, stamp) in enumerate(zip(names, devices, stamps, strict=True)):
            found = known.find(name, its_device, Stamp(*stamp))
            if found is None:
                self.digests += bytes(32)
                self.object_of.append(NOWHERE)
                self.offsets.append(0)
                continue
            flagged[row] |= KNOWN | FROM_CACHE
            self.digests += found.digest
            has_place = bool(found.object_id)
            self.object_of.append(self.index_of(found.object_id) if has_place else NOWHERE)
            self.offsets.append(found.offset)
        self.flags += flagged

    def _add_known(self, flagged: bytearray, known: Folder, changed: set[int]) -> None:
        first = len(self.flags)
        self.flags += flagged.translate(_AS_KNOWN)
        self.digests += known.digests
        object_of, offsets = known.places()
        indexes = [*map(self.index_of, known.object_ids), NOWHERE]  # [-1] is NOWHERE
        self.object_of.extend([indexes[index] for index in object_of])
        self.offsets.extend(offsets)
        for row in changed:
            self.forget_digest(first + row)
            self.object_of[first + row] = NOWHERE
            self.offsets[first + row] = 0

    def name_locally(self, row: int, name: str) -> None:
        self._named[row] = name

    def is_sorted(self) -> bool:
        paths = self.paths
        return all(paths[i] < paths[i + 1] for i in range(len(paths) - 1))

    def reordered(self, rows: Sequence[int]) -> Listing:
        """The same folders, with only these rows, in this order; before anything is in `contents`."""
        new = Listing()
        new.object_ids, new._object_rows = self.object_ids, self._object_rows
        new.folders, new.devices = self.folders, self.devices
        new.cached, new.whole = self.cached, self.whole
        new.paths = [self.paths[i] for i in rows]
        new.flags = bytearray(self.flags[i] for i in rows)
        new.digests = bytearray(b"".join(self.digests[32 * i : 32 * i + 32] for i in rows))
        for column in ("sizes", "inodes", "mtimes", "ctimes", "folder_of", "object_of", "offsets"):
            old = getattr(self, column)
            setattr(new, column, array(old.typecode, [old[i] for i in rows]))
        if self._named:
            new._named = {j: self._named[i] for j, i in enumerate(rows) if i in self._named}
        return new

    # reading

    def local_path(self, row: int) -> str:
        return f"{self.folders[self.folder_of[row]]}/{self.local_name(row)}"

    def local_name(self, row: int) -> str:
        return self._named.get(row) or self.paths[row].rpartition("/")[2]

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
        self.inodes[row], self.sizes[row] = stamp.inode, stamp.size
        self.mtimes[row], self.ctimes[row] = stamp.mtime_ns, stamp.ctime_ns

    def set_digest(self, row: int, digest: bytes) -> None:
        self.digests[32 * row : 32 * row + 32] = digest
        self.flags[row] = self.flags[row] & ~FROM_CACHE | KNOWN

    def set_digests(self, rows: Sequence[int], digests: Sequence[bytes]) -> None:
        """The same for rows in ascending order."""
        if is_run(rows):
            first, stop = rows[0], rows[-1] + 1
            self.digests[32 * first : 32 * stop] = b"".join(digests)
            self.flags[first:stop] = self.flags[first:stop].translate(_AS_READ)
            return
        for row, digest in zip(rows, digests, strict=True):
            self.set_digest(row, digest)

    def forget_digest(self, row: int) -> None:
        self.flags[row] &= ~(KNOWN | FROM_CACHE)

    def begin_placement(self) -> None:
        more = len(self) - len(self.offsets)
        self.object_of.extend([NOWHERE] * more)
        self.offsets.extend([0] * more)

    def forget_placement(self) -> None:
        """What was believed to be stored is not any more: everything must be placed again."""
        self.object_of, self.offsets = array("i"), array("q")
        self.object_ids, self._object_rows, self.contents = [], {}, {}

    def index_of(self, object_id: str) -> int:
        """The object's index in `object_ids`, which it joins if it is new."""
        index = self._object_rows.get(object_id)
        if index is None:
            index = self._object_rows[object_id] = len(self.object_ids)
            self.object_ids.append(object_id)
        return index

    def place(self, row: int, object_id: str, offset: int) -> None:
        self.object_of[row] = self.index_of(object_id)
        self.offsets[row] = offset
        self.flags[row] &= ~FROM_CACHE  # the cache did not know its place: it is told

    def place_run(self, rows: Sequence[int], object_id: str, offsets: Sequence[int]) -> None:
        """The same for rows in ascending order that lie in one object."""
        if not is_run(rows):
            for row, offset in zip(rows, offsets, strict=True):
                self.place(row, object_id, offset)
            return
        first, stop = rows[0], rows[-1] + 1
        self.object_of[first:stop] = array("i", [self.index_of(object_id)]) * len(rows)
        self.offsets[first:stop] = array("q", offsets)
        self.flags[first:stop] = self.flags[first:stop].translate(_AS_NEWS)

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

    def pieces(self) -> Iterator[PlainFiles | list[Entry]]:
        """All rows for the manifest; each must have a digest and a place."""
        for start in range(0, len(self), BLOCK_ENTRIES):
            stop = min(start + BLOCK_ENTRIES, len(self))
            indexes = self.object_of[start:stop]
            if APART in indexes:
                yield [self.entry(row) for row in range(start, stop)]
            else:
                yield self._plain(start, stop, indexes)

    def _plain(self, start: int, stop: int, indexes: array[int]) -> PlainFiles:
        used = sorted({index for index in indexes if index >= 0})
        position_of = {index: position for position, index in enumerate(used)}
        return PlainFiles(
            self.paths[start:stop],
            bytes(self.digests[32 * start : 32 * stop]),
            self.sizes[start:stop],
            bytes(self.flags[start:stop]).translate(_AS_EXECUTABLE),
            [self.object_ids[index] for index in used],
            [position_of.get(index, 0) for index in indexes],
            self.offsets[start:stop],
        )

    def entry(self, row: int) -> Entry:
        extents: tuple[Extent, ...] = ()
        chunks: tuple[Chunk, ...] = ()
        index = self.object_of[row]
        if index >= 0:
            extents = (Extent(self.object_ids[index], self.offsets[row], self.sizes[row]),)
        elif index == APART:
            content = self.contents[row]
            extents, chunks = content.extents, content.chunks
        is_executable = bool(self.flags[row] & EXECUTABLE)
        return Entry(
            self.paths[row], self.digest(row), self.sizes[row], extents, chunks, is_executable
        )

    # remembering

    def remember(self, cache: StatCache, seen_at_ns: int, passing: str = "") -> None:
        """Write the digests of folders with news into the stat cache, but of none below `passing`.

        `seen_at_ns`: when the stamps were taken (at the earliest); younger stamps are not recorded,
        unless it is the user's word that the file does not change (linking it made its ctime young).
        """
        self.begin_placement()
        by_folder: dict[int, Sequence[int]] = {}
        changed: set[int] = set()
        for folder, rows in self._runs():
            by_folder[folder] = [*by_folder[folder], *rows] if folder in by_folder else rows
            if not all(flag & FROM_CACHE for flag in set(self.flags[rows.start : rows.stop])):
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

    def _runs(self) -> Iterator[tuple[int, range]]:
        """Neighbouring rows of one folder: a folder's files, but for the subfolders between them."""
        start = 0
        for folder, same in groupby(self.folder_of):
            stop = start + len(list(same))
            yield folder, range(start, stop)
            start = stop

    def _may_keep(self, rows: Sequence[int], trusted_before: int) -> Sequence[int]:
        """Those rows whose digests the stat cache may believe later."""
        flags, mtimes, ctimes = self.flags, self.mtimes, self.ctimes
        if isinstance(rows, range):  # nearly always: all of them, found out in C
            its = slice(rows.start, rows.stop)
            is_known = all(flag & KNOWN for flag in set(flags[its]))
            if is_known and max(max(mtimes[its]), max(ctimes[its])) < trusted_before:
                return rows
        return [
            row
            for row in rows
            if flags[row] & KNOWN
            and (
                flags[row] & IMMUTABLE
                or (mtimes[row] < trusted_before and ctimes[row] < trusted_before)
            )
        ]

    def _packed(
        self, folder: int, rows: Sequence[int], cache: StatCache, trusted_before: int
    ) -> bytes:
        kept = self._may_keep(rows, trusted_before)
        if not self.whole[folder]:
            files = [self._known(row) for row in kept if is_text(self.local_name(row))]
            return cache.merged(self.folders[folder], self.devices[folder], files)
        stamps = array("q")
        for column in (self.inodes, self.sizes, self.mtimes, self.ctimes):
            stamps.extend(_picked(column, kept))
        object_of = _picked(self.object_of, kept)
        used = sorted({index for index in object_of if index >= 0})
        position_of = {index: position for position, index in enumerate(used)}
        return packed_columns(
            self.devices[folder],
            [self.local_name(row) for row in kept],
            stamps,
            self._digests_of(kept),
            cache.realm,
            [self.object_ids[index] for index in used],
            array("i", [position_of.get(index, -1) for index in object_of]),
            array("q", _picked(self.offsets, kept)),
        )

    def _digests_of(self, rows: Sequence[int]) -> bytes:
        if isinstance(rows, range):
            return bytes(self.digests[32 * rows.start : 32 * rows.stop])
        return b"".join([self.digests[32 * row : 32 * row + 32] for row in rows])

    def _known(self, row: int) -> Known:
        index = self.object_of[row]
        object_id = self.object_ids[index] if index >= 0 else ""
        return Known(
            self.local_name(row), self.stamp(row), self.digest(row), object_id, self.offsets[row]
        )


__all__ = [
    "APART",
    "EXECUTABLE",
    "FROM_CACHE",
    "IMMUTABLE",
    "KNOWN",
    "NOWHERE",
    "OVERWRITES",
    "Listing",
    "is_run",
]
