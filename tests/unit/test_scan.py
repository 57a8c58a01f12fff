"""Finding a draft's files: what is walked, in which order, what is refused, and what two sources agree on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncart.engine.listing import EXECUTABLE, IMMUTABLE, OVERWRITES, Listing
from asyncart.engine.scan import (
    DirSource,
    FileSource,
    Removal,
    Source,
    check_tree,
    file_digest,
    same_content,
    scan,
)
from asyncart.engine.statcache import Stamp, StatCache
from asyncart.errors import Denied, Invalid, NotFound

FOLDER_COUNT = 40


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[StatCache]:
    cache = StatCache(str(tmp_path / "statcache.sqlite"))
    yield cache
    cache.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def files(folder: Path, *paths: str) -> Path:
    """Files whose content is their path."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    return folder


def everything(listing: Listing) -> dict[str, str]:
    """Path in the artifact -> content of the local file that it stands for."""
    return {
        path: Path(listing.local_path(row)).read_text() for row, path in enumerate(listing.paths)
    }


# --- order --------------------------------------------------------------------------------------


def test_nothing_makes_an_empty_listing(cache: StatCache, data: Path) -> None:
    assert len(scan([], cache)) == 0
    assert len(scan([DirSource("", str(data))], cache)) == 0


def test_a_tree_comes_sorted_by_path_whatever_sorts_around_the_slash(
    cache: StatCache, data: Path
) -> None:
    """`a.b`, `a/b`, `a!`, `a0`: the order of folders is not that of paths."""
    names = [
        "a/z",
        "a/b/c",
        "a.b",
        "a!",
        "a0",
        "a-/x",
        "a b",
        "Z",
        "é/ü",
        "z/1",
        "z/10",
        "z/2",
        "z.1/a",
    ]
    listing = scan([DirSource("", str(files(data, *names)))], cache)
    assert listing.paths == sorted(names)
    assert everything(listing) == {name: name for name in names}


def test_sources_in_any_order_give_the_same_listing(cache: StatCache, data: Path) -> None:
    files(data, "b/1", "a/1", "c")
    sources: list[Source] = [
        DirSource("b/", str(data / "b")),
        FileSource("z", str(data / "c")),
        DirSource("a/", str(data / "a")),
    ]
    expected = {"a/1": "a/1", "b/1": "b/1", "z": "c"}
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        listing = scan([sources[n] for n in order], cache)
        assert listing.paths == sorted(expected)
        assert everything(listing) == expected


def test_columns_are_those_of_the_files(cache: StatCache, data: Path) -> None:
    files(data, "b/tool", "a", "b/empty")
    (data / "b" / "tool").chmod(0o755)
    (data / "b" / "empty").write_bytes(b"")
    (data / "a").chmod(0o654)  # the owner's bit decides
    listing = scan([DirSource("x/", str(data), is_immutable=True, overwrite=True)], cache)
    assert listing.paths == ["x/a", "x/b/empty", "x/b/tool"]
    assert list(listing.sizes) == [1, 0, 6]
    for row, executes in enumerate([0, 0, EXECUTABLE]):
        st = os.stat(listing.local_path(row))
        assert listing.flags[row] == executes | IMMUTABLE | OVERWRITES
        assert listing.stamp(row) == Stamp.of(st)
    assert listing.unknown() == [0, 1, 2]


def test_the_checkpoint_is_called_per_folder_and_may_stop_the_scan(
    cache: StatCache, data: Path
) -> None:
    for number in range(FOLDER_COUNT):
        files(data, f"{number}/x")
    seen: list[int] = []
    scan([DirSource("", str(data))], cache, seen.append)
    assert len(seen) == FOLDER_COUNT + 1
    assert seen == sorted(seen)
    assert seen[-1] == FOLDER_COUNT - 1

    class Stop(Exception):
        pass

    def stop(count: int) -> None:
        if count == 3:
            raise Stop

    with pytest.raises(Stop):
        scan([DirSource("", str(data))], cache, stop)


def test_a_deep_tree_is_no_recursion(cache: StatCache, data: Path) -> None:
    path = data
    for _ in range(400):
        path = path / "d"
    path.mkdir(parents=True)
    (path / "f").write_text("deep")
    assert scan([DirSource("", str(data))], cache).paths == ["d/" * 400 + "f"]


# --- what two sources make of one path ----------------------------------------------------------


def test_two_sources_of_one_path_must_agree(cache: StatCache, tmp_path: Path) -> None:
    files(tmp_path / "one", "x", "y")
    files(tmp_path / "two", "x", "z")
    (tmp_path / "two" / "x").write_text("y")  # another content of the same length
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    with pytest.raises(Invalid, match=rf"x was added twice .*from {one}/x and from {two}/x"):
        scan([DirSource("", one), DirSource("", two)], cache)
    listing = scan([DirSource("", one), DirSource("", two, overwrite=True)], cache)
    assert everything(listing) == {"x": "y", "y": "y", "z": "z"}
    listing = scan([DirSource("", two), DirSource("", one, overwrite=True)], cache)
    assert everything(listing) == {"x": "x", "y": "y", "z": "z"}
    (tmp_path / "two" / "x").write_text("x")
    listing = scan([DirSource("", one), DirSource("", two)], cache)
    assert everything(listing) == {"x": "x", "y": "y", "z": "z"}


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ("+x -x", {}),
        ("+x -x +y", {"n": "y"}),
        ("+x !y", {"n": "y"}),
        ("+x !y -", {"n": "y"}),
        ("+x !y -x", {}),
        ("-x +x", {"n": "x"}),
        ("+x !y !x", {"n": "x"}),
        ("+x -x +x", {"n": "x"}),
    ],
)
def test_adding_overwriting_and_removing_count_in_their_order(
    cache: StatCache, data: Path, sources: str, expected: dict[str, str]
) -> None:
    """`+` adds, `!` overwrites, `-x` removes the path, `-` removes another."""
    files(data, "x", "y")
    steps: list[Source] = []
    for step in sources.split():
        if step.startswith("-"):
            steps.append(Removal("n" if step == "-x" else "other"))
        else:
            steps.append(FileSource("n", str(data / step[1:]), overwrite=step[0] == "!"))
    assert everything(scan(steps, cache)) == expected


def test_a_removal_takes_a_folder_but_not_what_only_begins_alike(
    cache: StatCache, data: Path
) -> None:
    files(data, "a/b/c", "a/b/d/e", "a/bc", "a/b.c", "b")
    listing = scan([DirSource("", str(data)), Removal("a/b")], cache)
    assert listing.paths == ["a/b.c", "a/bc", "b"]


@pytest.mark.parametrize(
    "paths",
    [["a", "a/b"], ["a/b", "a"], ["a", "a/b/c/d"], ["a", "a!", "a/b"], ["x/a", "x/a/b"]],
)
def test_a_path_is_a_file_or_a_folder(cache: StatCache, data: Path, paths: list[str]) -> None:
    files(data, "f")
    with pytest.raises(Invalid, match="a is a file, and a folder"):
        scan([FileSource(path, str(data / "f")) for path in paths], cache)
    with pytest.raises(Invalid, match="a is a file, and a folder"):
        check_tree(paths)


def test_what_only_begins_alike_is_no_contradiction() -> None:
    check_tree(["a", "ab/c", "a.b/c", "b/a", "a!"])
    check_tree([])


# --- links and odd things -----------------------------------------------------------------------


def test_a_loop_is_found_at_its_first_turn(cache: StatCache, data: Path) -> None:
    files(data, "a/b/x")
    (data / "a" / "b" / "up").symlink_to(data, target_is_directory=True)
    seen: list[int] = []
    with pytest.raises(Invalid, match=r"a/b/up leads back to a folder above it"):
        scan([DirSource("", str(data))], cache, seen.append)
    assert len(seen) == 4


def test_links_of_links_are_followed_to_their_end(cache: StatCache, data: Path) -> None:
    files(data.parent, "target")
    (data / "1").symlink_to("2")
    (data / "2").symlink_to("3")
    (data / "3").symlink_to("../target")
    assert set(everything(scan([DirSource("", str(data))], cache)).values()) == {"target"}


@pytest.mark.parametrize("symlinks", ["error", "skip"])
def test_the_given_folder_itself_may_be_a_link(cache: StatCache, data: Path, symlinks: str) -> None:
    files(data, "x")
    (data.parent / "link").symlink_to("data")
    listing = scan([DirSource("", str(data.parent / "link"), symlinks)], cache)  # type: ignore[arg-type]
    assert listing.paths == ["x"]


def test_what_is_gone_is_not_found(cache: StatCache, data: Path) -> None:
    with pytest.raises(NotFound, match=r"gone does not exist \(any more\)"):
        scan([DirSource("", str(data / "gone"))], cache)
    with pytest.raises(NotFound, match=r"gone does not exist \(any more\)"):
        scan([FileSource("x", str(data / "gone"))], cache)


def test_a_folder_is_no_file(cache: StatCache, data: Path) -> None:
    with pytest.raises(Invalid, match="is a folder, not a file; use add_dir"):
        scan([FileSource("x", str(data))], cache)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may read all")
def test_a_folder_that_may_not_be_read_is_named(cache: StatCache, data: Path) -> None:
    files(data, "closed/x")
    (data / "closed").chmod(0)
    try:
        with pytest.raises(Denied, match="closed"):
            scan([DirSource("", str(data))], cache)
    finally:
        (data / "closed").chmod(0o700)


@pytest.mark.skipif(os.name == "nt", reason="names in bytes")
def test_a_name_that_no_artifact_can_have_is_refused(cache: StatCache, data: Path) -> None:
    Path(os.fsdecode(os.fsencode(data) + b"/bad\xff")).write_text("x")
    with pytest.raises(Invalid, match="not valid UTF-8"):
        scan([DirSource("", str(data))], cache)


# --- comparing ----------------------------------------------------------------------------------


def test_same_content_is_of_bytes_and_not_of_names(data: Path) -> None:
    files(data, "a", "b")
    (data / "same").write_text("a")
    (data / "longer").write_text("aa")
    (data / "link").symlink_to("a")
    os.link(data / "b", data / "hard")
    a = str(data / "a")
    assert same_content(a, a)
    assert same_content(a, str(data / "same"))
    assert same_content(a, str(data / "link"))
    assert same_content(str(data / "b"), str(data / "hard"))
    assert not same_content(a, str(data / "b"))
    assert not same_content(a, str(data / "longer"))
    with pytest.raises(NotFound):
        same_content(a, str(data / "gone"))


def test_file_digest_is_what_b3sum_prints(data: Path) -> None:
    (data / "empty").write_bytes(b"")
    assert file_digest(str(data / "empty")).hex() == (
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    )


# --- taking away --------------------------------------------------------------------------------


def test_a_removal_takes_away_what_came_before_it_and_nothing_after(
    cache: StatCache, data: Path
) -> None:
    """Every order of three sources, compared with a dict that is changed step by step."""
    tree = files(data / "tree", "a/x", "b")
    other = files(data / "other", "a/x")
    steps: list[tuple[Source, dict[str, str]]] = [
        (DirSource("", str(tree), overwrite=True), {"a/x": "tree", "b": "tree"}),
        (FileSource("a/x", str(other / "a/x"), overwrite=True), {"a/x": "other"}),
        (FileSource("a/y", str(other / "a/x"), overwrite=True), {"a/y": "other"}),
        (Removal("a"), {}),
        (Removal("a/x"), {}),
        (Removal("b"), {}),
    ]
    for chosen in itertools.product(steps, repeat=3):
        expected: dict[str, str] = {}
        for source, brings in chosen:
            if isinstance(source, Removal):
                below = source.path + "/"
                expected = {
                    path: where
                    for path, where in expected.items()
                    if path != source.path and not path.startswith(below)
                }
            expected |= brings
        listing = scan([source for source, _ in chosen], cache)
        found = {
            path: Path(listing.local_path(row)).relative_to(data).parts[0]
            for row, path in enumerate(listing.paths)
        }
        assert found == expected
        assert list(found) == sorted(found)
