"""Decide which objects are worth emptying, and where that leaves the entries that point into them.

Everything here is arithmetic on entries: no await, no clock, no disk. `Survey` is shown the entries of
every live version that reaches some loose objects, and says how much of each object they need; `chosen`
says which of them are worth it; `moved` says what an entry is when the bytes lie elsewhere.

What is copied is a *piece*: a small file, or a chunk of a large one. Each has a digest of its own, so that
every byte is verified on its way, and none that nobody needs is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ..model import Entry, Extent
from . import plan
from .chunking import merge_extents

# Emptying an object of which the share x lives copies x / (1 - x) bytes for each one that it frees. Simulated
# (300 packs of 100 files, 1 % of the files replaced at random per step, steady state): never compacted, the
# store is 3.5x what lives in it; at 0.2 it is 2.0x for 0.25 bytes copied per byte written, at 0.3 1.7x for
# 0.46, at 0.5 1.4x for 0.98, at 0.7 1.2x for 2.3. Beyond 0.3 each tenth saved costs more than it is worth.
LIVE_SHARE = 0.3
LEAST_GAIN_BYTES = 64 << 10  # an object less saves a request's worth of work, not more
MAX_PIECES = 250_000  # remembered at a time: some 60 MB


class Place(NamedTuple):
    """Where a piece lies in its object, in bytes."""

    offset: int
    length: int


class Surveyed(NamedTuple):
    """An object of which little is used: `pieces` by their places, with what proves them."""

    object_id: str
    size: int
    live_bytes: int
    pieces: dict[Place, bytes]

    @property
    def gain_bytes(self) -> int:
        return self.size - self.live_bytes


class User(NamedTuple):
    """A version that reaches objects, and what rewriting its manifest costs, in bytes."""

    version_id: str
    manifest_bytes: int
    object_ids: frozenset[str]


class Survey:
    """How much of some objects is used. An object that turns out to be used well is forgotten at once;
    if there is more to remember than `max_pieces`, the last objects are put off."""

    def __init__(self, sizes: Mapping[str, int], max_pieces: int = MAX_PIECES) -> None:
        self._sizes = dict(sizes)
        self._pieces: dict[str, dict[Place, bytes]] = {object_id: {} for object_id in sizes}
        self._live = dict.fromkeys(sizes, 0)
        self._count = 0
        self._max_pieces = max_pieces
        self.put_off: list[str] = []
        for object_id, size in sizes.items():
            if size < LEAST_GAIN_BYTES:
                self.settle([object_id])

    def is_open(self, object_id: str) -> bool:
        """Whether it may still turn out to be worth it."""
        return object_id in self._pieces

    def settle(self, object_ids: Iterable[str]) -> None:
        """Leave these as they are."""
        for object_id in object_ids:
            self._count -= len(self._pieces.pop(object_id, ()))

    def add(self, entries: Iterable[Entry]) -> None:
        """Entries of a version that reaches the objects. Raises Corrupt for nonsense."""
        for entry in entries:
            for object_id, place, digest in self._wanted(entry):
                pieces = self._pieces.get(object_id)
                if pieces is None or place in pieces:
                    continue
                pieces[place] = digest
                self._count += 1
                self._live[object_id] += place.length
                if not _is_little(self._live[object_id], self._sizes[object_id]):
                    self.settle([object_id])
            if self._count > self._max_pieces:
                self._put_off_last()

    def _wanted(self, entry: Entry) -> Iterator[tuple[str, Place, bytes]]:
        if any(extent.object_id in self._pieces for extent in entry.extents):
            yield from pieces_of(entry)

    def _put_off_last(self) -> None:
        while self._count > self._max_pieces and len(self._pieces) > 1:
            last = next(reversed(self._pieces))
            self.put_off.append(last)
            self.settle([last])

    def result(self) -> list[Surveyed]:
        """The objects that are used little, once all versions were shown."""
        return [
            Surveyed(object_id, self._sizes[object_id], self._live[object_id], pieces)
            for object_id, pieces in self._pieces.items()
        ]


def _is_little(live_bytes: int, size: int) -> bool:
    return live_bytes <= LIVE_SHARE * size and size - live_bytes >= LEAST_GAIN_BYTES


def chosen(found: Sequence[Surveyed], users: Sequence[User]) -> list[Surveyed]:
    """Those whose emptying frees more than it writes: the live bytes, and new manifests for all versions
    that reach them. What a version's manifest costs is shared by the objects that it is rewritten for."""
    left = {each.object_id: each for each in found}
    while True:
        costs = {object_id: float(each.live_bytes) for object_id, each in left.items()}
        for user in users:
            mine = user.object_ids & left.keys()
            for object_id in mine:
                costs[object_id] += user.manifest_bytes / len(mine)
        poor = [
            object_id for object_id, each in left.items() if costs[object_id] >= each.gain_bytes
        ]
        if not poor:
            return list(left.values())
        for object_id in poor:
            del left[object_id]


def next_user(users: Sequence[User], survey: Survey, done: set[str]) -> User | None:
    """Whose entries to look at next: of whoever reaches most of what is undecided, and of those the
    newest. A version that reaches nothing undecided need not be read at all."""
    best: tuple[int, int] = (0, 0)
    found = None
    for number, user in enumerate(users):
        if user.version_id not in done:
            undecided = sum(map(survey.is_open, user.object_ids))
            if undecided and (undecided, number) > best:
                best, found = (undecided, number), user
    return found


def pieces_of(entry: Entry) -> Iterator[tuple[str, Place, bytes]]:
    """Object, place and digest of everything that the entry is made of. Raises Corrupt for nonsense."""
    if not entry.size or entry.reference is not None:
        return
    if not entry.chunks:
        plan.check_small(entry)
        extent = entry.extents[0]
        yield extent.object_id, Place(extent.offset, extent.length), entry.digest
        return
    chunks = iter(entry.chunks)
    for extent in entry.extents:
        offset, end = extent.offset, extent.offset + extent.length
        while offset < end:
            chunk = next(chunks, None)
            if chunk is None or offset + chunk.length > end:
                raise plan.misfit(entry)
            yield extent.object_id, Place(offset, chunk.length), chunk.digest
            offset += chunk.length


Moves = Mapping[str, Mapping[Place, Extent]]  # by emptied object: where its pieces lie now


def moved(entry: Entry, moves: Moves) -> Entry:
    """The same entry, pointing to where its bytes lie now."""
    if not any(extent.object_id in moves for extent in entry.extents):
        return entry
    extents = []
    for object_id, place, _ in pieces_of(entry):
        new = moves.get(object_id)
        extents.append(new[place] if new is not None else Extent(object_id, *place))
    return msgspec.structs.replace(entry, extents=merge_extents(extents))


class Run(NamedTuple):
    """One read of an object, and the pieces in it: sorted, with what proves them."""

    offset: int
    length: int
    pieces: list[tuple[Place, bytes]]


def runs(pieces: Mapping[Place, bytes]) -> list[Run]:
    """Few large reads that bring these pieces."""
    places = sorted(pieces)
    return [
        Run(offset, length, [(place, pieces[place]) for place in places[first:last]])
        for offset, length, first, last in plan.reads(places)
    ]
