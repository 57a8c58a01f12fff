"""Rows of a listing on their way to a worker and back, as columns of bytes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TypeVar

from ..engine.listing import FROM_CACHE, KNOWN, NOWHERE, Listing, is_run
from ..engine.statcache import Stamp
from .wire import Files, Stored

T = TypeVar("T")

PROMISED = "promised"  # the id of no object: another worker is storing this content
_AS_READ = bytes(flag & ~FROM_CACHE | KNOWN for flag in range(256))


def packed_files(listing: Listing, rows: Sequence[int]) -> Files:
    """What a worker needs to read these rows (ascending)."""
    folder_of = array("I", _taken(listing.folder_of, rows))
    used = sorted(set(folder_of))
    index_of = {folder: index for index, folder in enumerate(used)}
    named = listing._named
    return Files(
        paths=list(_taken(listing.paths, rows)),
        sizes=_column(listing.sizes, rows),
        inodes=_column(listing.inodes, rows),
        mtimes=_column(listing.mtimes, rows),
        ctimes=_column(listing.ctimes, rows),
        flags=bytes(_taken(listing.flags, rows)),
        folder_of=array("I", [index_of[folder] for folder in folder_of]).tobytes(),
        folders=[listing.folders[folder] for folder in used],
        devices=[listing.devices[folder] for folder in used],
        named={i: named[row] for i, row in enumerate(rows) if row in named} if named else {},
    )


def listing_of(files: Files) -> Listing:
    """The worker's own listing of these rows."""
    listing = Listing()
    for folder, device in zip(files.folders, files.devices, strict=True):
        listing.add_folder(folder, device, 0, is_whole=False)
    listing.paths = files.paths
    for name in ("sizes", "inodes", "mtimes", "ctimes"):
        getattr(listing, name).frombytes(getattr(files, name))
    listing.flags = bytearray(files.flags)
    listing.digests = bytearray(32 * len(files.paths))
    listing.folder_of.frombytes(files.folder_of)
    listing._named = files.named
    return listing


def packed_results(listing: Listing, files: Files) -> Stored:
    """What the engine found out about the worker's listing."""
    before = [array("q", getattr(files, name)) for name in ("inodes", "sizes", "mtimes", "ctimes")]
    after = [listing.inodes, listing.sizes, listing.mtimes, listing.ctimes]
    restamped: dict[int, Stamp] = {}
    if before != after:
        for row in range(len(listing)):
            if any(old[row] != new[row] for old, new in zip(before, after, strict=True)):
                restamped[row] = listing.stamp(row)
    return Stored(
        digests=bytes(listing.digests),
        object_of=listing.object_of.tobytes(),
        offsets=listing.offsets.tobytes(),
        object_ids=listing.object_ids,
        contents=listing.contents,
        restamped=restamped,
    )


def merge_results(listing: Listing, rows: Sequence[int], stored: Stored) -> None:
    """Fill them in. Content that another worker promised to store is left unplaced.

    Several threads may merge rows of their own at once; `Listing.index_of` is the one thing they share.
    """
    object_of, offsets = array("i", stored.object_of), array("q", stored.offsets)
    moved_to = [
        NOWHERE if object_id == PROMISED else listing.index_of(object_id)
        for object_id in stored.object_ids
    ]
    renumbered = array("i", [moved_to[o] if o >= 0 else o for o in object_of])
    if is_run(rows):
        first, stop = rows[0], rows[-1] + 1
        listing.digests[32 * first : 32 * stop] = stored.digests
        listing.flags[first:stop] = listing.flags[first:stop].translate(_AS_READ)
        listing.object_of[first:stop] = renumbered
        listing.offsets[first:stop] = offsets
    else:
        for i, row in enumerate(rows):
            listing.set_digest(row, stored.digests[32 * i : 32 * i + 32])
            listing.object_of[row], listing.offsets[row] = renumbered[i], offsets[i]
    for i, stamp in stored.restamped.items():
        listing.restamp(rows[i], stamp)
    for i, content in stored.contents.items():
        listing.contents[rows[i]] = content


def _taken(column: Sequence[T], rows: Sequence[int]) -> Sequence[T]:
    if is_run(rows):
        return column[rows[0] : rows[-1] + 1]
    return [column[row] for row in rows]


def _column(column: array[int], rows: Sequence[int]) -> bytes:
    if is_run(rows):
        return column[rows[0] : rows[-1] + 1].tobytes()
    return array(column.typecode, [column[row] for row in rows]).tobytes()
