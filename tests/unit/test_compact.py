"""What is worth emptying, what that leaves of an entry, and which bytes have to be read for it."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from blake3 import blake3
from hypothesis import given

from asyncart.engine import compact, plan
from asyncart.engine.compact import Place, Survey, Surveyed, User
from asyncart.errors import Corrupt
from asyncart.model import Chunk, Entry, Extent, Reference

MIB = 1 << 20
A, B, C = ("a" * 32, "b" * 32, "c" * 32)


def digest(text: object) -> bytes:
    return blake3(str(text).encode()).digest()


def small(path: str, object_id: str, offset: int, length: int) -> Entry:
    return Entry(path, digest((object_id, offset)), length, (Extent(object_id, offset, length),))


def large(path: str, *extents: Extent, chunk_bytes: int = MIB) -> Entry:
    chunks = tuple(
        Chunk(digest((extent.object_id, at)), min(chunk_bytes, extent.offset + extent.length - at))
        for extent in extents
        for at in range(extent.offset, extent.offset + extent.length, chunk_bytes)
    )
    size = sum(extent.length for extent in extents)
    return Entry(path, digest(path), size, extents, chunks)


# how much is used


@pytest.mark.parametrize(
    ("live_bytes", "is_little"),
    [(0, True), (30 * MIB, True), (30 * MIB + 1, False), (100 * MIB, False)],
)
def test_an_object_is_mostly_dead_below_the_share(live_bytes, is_little):
    survey = Survey({A: 100 * MIB})
    survey.add([large("x", Extent(A, 0, live_bytes))] if live_bytes else [])
    assert survey.is_open(A) is is_little
    assert [each.live_bytes for each in survey.result()] == [live_bytes] * is_little


@pytest.mark.parametrize(("gain", "is_open"), [(-1, False), (0, True), (1, True)])
def test_a_small_gain_is_not_worth_it(gain, is_open):
    survey = Survey({A: compact.LEAST_GAIN_BYTES + gain})
    assert survey.is_open(A) is is_open
    survey = Survey({A: compact.LEAST_GAIN_BYTES + 100 + gain})
    survey.add([small("x", A, 0, 100)])
    assert survey.is_open(A) is is_open


def test_what_several_versions_and_paths_share_counts_once():
    """Small files by their place, large ones by their chunks; other objects, empty files and references
    do not count."""
    survey = Survey({A: 100 * MIB})
    one = large("l", Extent(A, 10 * MIB, 4 * MIB), Extent(B, 0, MIB))
    overlapping = large("m", Extent(A, 12 * MIB, 4 * MIB))
    nothing = [
        Entry("empty", digest(""), 0),
        Entry("ref", digest("r"), 9, reference=Reference("s3://x/y")),
    ]
    for _ in range(2):
        survey.add([small("x", A, 0, 5), small("y", A, 0, 5), *nothing])
        survey.add([one, overlapping, small("z", B, 0, 5)])
    (found,) = survey.result()
    assert found.live_bytes == 5 + 6 * MIB
    assert len(found.pieces) == 1 + 6
    assert found.pieces[Place(0, 5)] == digest((A, 0))
    assert found.gain_bytes == 100 * MIB - found.live_bytes


def test_when_there_is_too_much_to_remember_the_last_objects_wait():
    """But never the only one: somebody has to be first."""
    survey = Survey({A: 64 * MIB, B: 64 * MIB, C: 64 * MIB}, max_pieces=5)
    for object_id in (C, B, A):
        survey.add([small(f"{n}", object_id, 10 * n, 10) for n in range(3)])
    assert survey.put_off == [C, B]
    assert [each.object_id for each in survey.result()] == [A]
    survey.add([small(f"{n}", A, 10 * n, 10) for n in range(100)])
    assert [len(each.pieces) for each in survey.result()] == [100]


@pytest.mark.parametrize(
    "entry",
    [
        Entry("x", digest("x"), 10, (Extent(A, 0, 5), Extent(A, 5, 5))),
        Entry("x", digest("x"), 10, (Extent(A, 0, 10),), (Chunk(digest("c"), 11),)),
        Entry("x", digest("x"), 10, (Extent(A, 0, 10),), (Chunk(digest("c"), 9),)),
    ],
)
def test_nonsense_is_refused(entry):
    with pytest.raises(Corrupt, match="x: its"):
        Survey({A: 100 * MIB}).add([entry])


# what is worth it


def surveyed(object_id: str, size: int, live_bytes: int) -> Surveyed:
    return Surveyed(object_id, size, live_bytes, {})


def user(name: str, manifest_bytes: int, *object_ids: str) -> User:
    return User(name, manifest_bytes, frozenset(object_ids))


def test_a_gain_must_exceed_what_is_written_for_it():
    """Copies and manifests; a manifest is rewritten once for all objects of its version."""
    one = surveyed(A, 100, 10)  # gains 90
    assert compact.chosen([one], [user("v", 79, A)]) == [one]
    assert compact.chosen([one], [user("v", 80, A)]) == []
    assert compact.chosen([one], [user("v", 40, A), user("w", 40, A)]) == []
    two = surveyed(B, 100, 10)
    assert compact.chosen([one, two], [user("v", 159, A, B)]) == [one, two]
    assert compact.chosen([one, two], [user("v", 160, A, B)]) == []
    assert compact.chosen([], [user("v", 1, A)]) == []


def test_one_poor_object_does_not_hold_back_the_others():
    """Nor does it go on sharing their costs: what is left is judged again."""
    rich, poor = surveyed(A, 1000, 10), surveyed(B, 100, 30)
    shared = user("v", 100, A, B)
    assert compact.chosen([rich, poor], [shared]) == [rich]
    barely = surveyed(A, 100, 10)
    assert compact.chosen([barely, poor], [shared]) == []


def test_the_next_version_to_read_is_the_one_that_settles_most():
    """Newest first; who reaches nothing undecided is never read."""
    survey = Survey({A: 100 * MIB, B: 100 * MIB})
    users = [user("old", 1, A), user("two", 1, A, B), user("new", 1, B), user("other", 1, C)]
    assert compact.next_user(users, survey, set()) is users[1]
    assert compact.next_user(users, survey, {"two"}) is users[2]
    survey.settle([B])
    assert compact.next_user(users, survey, {"two"}) is users[0]
    assert compact.next_user(users, survey, {"two", "old"}) is None


# where it leads


def test_an_entry_points_to_where_its_bytes_lie_now():
    """Neighbours that stay neighbours are one extent again; the rest of it stays where it was."""
    moves = {A: {Place(0, 5): Extent(C, 70, 5)}}
    assert compact.moved(small("x", A, 0, 5), moves).extents == (Extent(C, 70, 5),)
    untouched = small("x", B, 0, 5)
    assert compact.moved(untouched, moves) is untouched
    entry = large("l", Extent(B, 0, 2 * MIB), Extent(A, 8 * MIB, 3 * MIB), Extent(B, 9 * MIB, MIB))
    lies = {Place((8 + n) * MIB, MIB): Extent(C, at * MIB, MIB) for n, at in enumerate((4, 5, 1))}
    new = compact.moved(entry, {A: lies})
    assert new.extents == (
        Extent(B, 0, 2 * MIB),
        Extent(C, 4 * MIB, 2 * MIB),
        Extent(C, MIB, MIB),
        Extent(B, 9 * MIB, MIB),
    )
    assert (new.path, new.digest, new.size, new.chunks) == (
        "l",
        entry.digest,
        entry.size,
        entry.chunks,
    )


@given(st.lists(st.tuples(st.integers(0, 80 * MIB), st.integers(1, 4 * MIB)), max_size=60))
def test_the_runs_bring_every_piece_once(places):
    """In order, in reads of a bounded size that do not read over large gaps."""
    pieces = {Place(*place): digest(place) for place in places}
    found = compact.runs(pieces)
    assert [piece for run in found for piece in run.pieces] == sorted(pieces.items())
    for run in found:
        assert run.offset == run.pieces[0][0].offset
        assert run.offset + run.length == max(
            place.offset + place.length for place, _ in run.pieces
        )
        assert run.length <= plan.RANGE_BYTES
        end = run.offset
        for place, _ in run.pieces:
            assert place.offset <= end + plan.GAP_BYTES
            end = max(end, place.offset + place.length)
