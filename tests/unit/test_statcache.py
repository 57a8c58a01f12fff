"""The stat cache is believed only when nothing can have changed, and losing it costs a read, never more."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from asyncart.engine.listing import FROM_CACHE, Listing
from asyncart.engine.scan import DirSource, FileSource, scan
from asyncart.engine.statcache import (
    RACY_NS,
    Folder,
    Known,
    Stamp,
    StatCache,
    packed,
    sealed,
    signed,
    unpacked,
)

DIGEST = bytes(range(32))
OTHER = bytes(reversed(DIGEST))
STAMP = Stamp(inode=7, size=100, mtime_ns=1_000, ctime_ns=2_000)
NOW_NS = 2_000_000_000_000_000_000


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[StatCache]:
    cache = StatCache(str(tmp_path / "home" / "statcache.sqlite"))
    yield cache
    cache.close()


def one(name: str = "f", stamp: Stamp = STAMP, digest: bytes = DIGEST, device: int = 3) -> bytes:
    return packed(device, [Known(name, stamp, digest)])


# --- what is believed ---------------------------------------------------------------------------


def test_a_file_whose_stamp_is_the_same_has_the_same_digest() -> None:
    assert unpacked(one()).digest("f", 3, STAMP) == DIGEST


@pytest.mark.parametrize("field", Stamp.__struct_fields__)
@pytest.mark.parametrize("step", [-1, 1])
def test_any_other_stamp_is_not_believed(field: str, step: int) -> None:
    other = replace(STAMP, **{field: getattr(STAMP, field) + step})
    assert unpacked(one()).digest("f", 3, other) is None


def test_another_device_or_name_is_not_believed() -> None:
    folder = unpacked(one())
    assert folder.digest("f", 4, STAMP) is None
    assert folder.digest("g", 3, STAMP) is None
    assert Folder().digest("f", 3, STAMP) is None
    assert Folder().digest("f", -1, STAMP) is None


@pytest.mark.parametrize("inode", [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_inode_numbers_of_64_bits_fit(inode: int) -> None:
    stamp = replace(STAMP, inode=signed(inode))
    assert unpacked(one(stamp=stamp)).digest("f", 3, stamp) == DIGEST


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_a_folder_of_any_length_comes_back(count: int) -> None:
    files = [
        Known(f"f{n:03}", Stamp(n, n * 2, n * 3, n * 4), bytes([n]) * 32, f"{n % 3:032x}", n)
        for n in range(count)
    ]
    folder = unpacked(packed(3, files))
    assert len(folder) == count
    assert folder.all() == files


# --- the racy rule ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_ns", "is_recorded"), [(0, False), (RACY_NS, False), (RACY_NS + 1, True)]
)
@pytest.mark.parametrize("column", ["mtime_ns", "ctime_ns"])
def test_a_file_that_was_young_when_it_was_seen_is_not_recorded(
    cache: StatCache, tmp_path: Path, column: str, age_ns: int, is_recorded: bool
) -> None:
    """It may change again within the granularity of its clock, and the stamp would not tell."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "f").write_text("x")
    listing = scan([DirSource("", str(tmp_path / "data"))], cache)
    listing.set_digest(0, DIGEST)
    old = NOW_NS - 10 * RACY_NS
    stamp = replace(listing.stamp(0), mtime_ns=old, ctime_ns=old)
    listing.restamp(0, replace(stamp, **{column: NOW_NS - age_ns}))
    listing.remember(cache, NOW_NS)
    assert len(cache.load(str(tmp_path / "data"))) == is_recorded


def test_the_users_word_that_a_file_does_not_change_is_enough(
    cache: StatCache, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("x")
    listing = scan([FileSource("f", str(tmp_path / "f"), is_immutable=True)], cache)
    listing.set_digest(0, DIGEST)
    listing.remember(cache, 0)
    assert is_known(cache, tmp_path / "f")


# --- scanning with it ---------------------------------------------------------------------------


def old_file(path: Path, content: str) -> Path:
    """A file that is too old to be racy, by its mtime; its ctime is of now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (1, 1))
    return path


def remembered(cache: StatCache, *sources: DirSource | FileSource) -> Listing:
    """Scan, give every file a digest, and remember it as seen long after."""
    listing = scan(sources, cache)
    for row in range(len(listing)):
        listing.set_digest(row, bytes([row + 1]) * 32)
    listing.remember(cache, NOW_NS)
    return listing


def is_known(cache: StatCache, path: Path) -> bool:
    listing = scan([FileSource("x", str(path))], cache)
    return bool(listing.flags[0] & FROM_CACHE)


def test_a_scan_finds_what_was_remembered(cache: StatCache, tmp_path: Path) -> None:
    for name in ("a", "b", "sub/c"):
        old_file(tmp_path / "data" / name, name)
    source = DirSource("", str(tmp_path / "data"))
    assert remembered(cache, source).unknown() == []
    again = scan([source], cache)
    assert again.unknown() == []
    assert [again.digest(row)[0] for row in range(3)] == [1, 2, 3]


def test_only_what_changed_is_unknown(cache: StatCache, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in "abcdef":
        old_file(data / name, name)
    source = DirSource("", str(data))
    remembered(cache, source)
    old_file(data / "b", "B")  # the same length and mtime: the ctime tells
    (data / "c").unlink()
    os.replace(old_file(data / "tmp", "d"), data / "d")  # the same content in another file
    old_file(data / "new", "new")
    listing = scan([source], cache)
    assert [listing.paths[row] for row in listing.unknown()] == ["b", "d", "new"]


def test_single_files_of_a_folder_do_not_forget_the_others(
    cache: StatCache, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        old_file(tmp_path / name, name)
        remembered(cache, FileSource("x", str(tmp_path / name)))
    assert is_known(cache, tmp_path / "a")
    assert is_known(cache, tmp_path / "b")


def test_a_folder_forgets_files_that_are_gone(cache: StatCache, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("a", "b"):
        old_file(data / name, name)
    remembered(cache, DirSource("", str(data)))
    (data / "a").unlink()
    listing = scan([DirSource("", str(data))], cache)
    listing.remember(cache, NOW_NS)
    assert [known.name for known in cache.load(str(data)).all()] == ["b"]


def test_a_file_under_another_name_in_the_artifact_is_the_same_file(
    cache: StatCache, tmp_path: Path
) -> None:
    path = old_file(tmp_path / "local-name", "x")
    remembered(cache, FileSource("path/in/artifact", str(path)))
    assert is_known(cache, path)


def test_folders_that_pass_are_not_remembered(cache: StatCache, tmp_path: Path) -> None:
    path = old_file(tmp_path / "drafts" / "1" / "f", "x")
    listing = scan([FileSource("f", str(path))], cache)
    listing.set_digest(0, DIGEST)
    listing.remember(cache, NOW_NS, str(tmp_path / "drafts"))
    assert not is_known(cache, path)


@pytest.mark.skipif(os.name == "nt", reason="names in bytes")
def test_names_that_are_not_utf_8_are_simply_not_remembered(
    cache: StatCache, tmp_path: Path
) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/fold\xff")
    path = f"{folder}/na\udcfeme"
    old_file(Path(path), "x")
    old_file(Path(folder, "fine"), "y")
    old_file(tmp_path / "na\udcfeme", "z")
    listing = remembered(
        cache,
        FileSource("a", path),
        FileSource("b", f"{folder}/fine"),
        FileSource("c", str(tmp_path / "na\udcfeme")),
    )
    assert listing.paths == ["a", "b", "c"]
    assert not is_known(cache, Path(path))


# --- the file -----------------------------------------------------------------------------------


def test_it_is_still_there_for_the_next_process(cache: StatCache, tmp_path: Path) -> None:
    cache.save([("/a", one())])
    cache.close()
    other = StatCache(str(tmp_path / "home" / "statcache.sqlite"))
    assert other.load("/a").digest("f", 3, STAMP) == DIGEST
    other.close()
    assert cache.load("/a").digest("f", 3, STAMP) == DIGEST  # opened again


def test_saving_replaces_and_merging_keeps(cache: StatCache) -> None:
    cache.save([("/a", one("f")), ("/b", one("f"))])
    cache.save([("/a", one("g"))])
    assert cache.load("/a").digest("f", 3, STAMP) is None
    cache.save([("/a", cache.merged("/a", 3, [Known("f", STAMP, OTHER)]))])
    assert cache.load("/a").digest("g", 3, STAMP) == DIGEST
    assert cache.load("/a").digest("f", 3, STAMP) == OTHER
    cache.save([("/a", cache.merged("/a", 4, [Known("f", STAMP, OTHER)]))])
    assert len(cache.load("/a")) == 1  # another device: a folder of that name, but not that folder
    assert cache.load("/b").digest("f", 3, STAMP) == DIGEST


def test_clear_forgets_everything(cache: StatCache) -> None:
    cache.save([("/a", one())])
    cache.clear()
    assert len(cache.load("/a")) == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: b"not a database, but long enough to be one" * 100,
        lambda data: data[:1000],
        lambda data: data[: len(data) // 2] + b"\xff" * (len(data) - len(data) // 2),
        lambda data: data[:16] + b"\0" * 84 + data[100:],
    ],
)
def test_a_damaged_file_is_thrown_away_and_the_cache_works_again(
    tmp_path: Path, spoil: object
) -> None:
    path = tmp_path / "statcache.sqlite"
    before = StatCache(str(path))
    before.save([(f"/{n}", one()) for n in range(500)])
    before.close()
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    cache = StatCache(str(path))
    for n in range(500):
        assert cache.load(f"/{n}").digest("f", 3, STAMP) in (None, DIGEST)
    for _ in range(2):  # a write may be what finds out
        cache.save([("/a", one())])
    assert cache.load("/a").digest("f", 3, STAMP) == DIGEST
    cache.close()


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xc1",
        sealed(one())[:-1],
        sealed(one())[: len(one()) // 2],
        sealed(one()) + b"\0",
        one(),
        sealed(b"\xc1"),
        None,
        "text",
        # Whole in its form: the digest of another day beside the stamp of this one.
        sealed(one()).replace(DIGEST, OTHER),
    ],
)
def test_a_damaged_row_is_an_empty_folder(
    cache: StatCache, tmp_path: Path, blob: bytes | str | None
) -> None:
    cache.save([("/a", one())])
    with sqlite3.connect(tmp_path / "home" / "statcache.sqlite") as db:
        db.execute("CREATE TABLE damaged (path TEXT PRIMARY KEY, files BLOB)")
        db.execute("INSERT INTO damaged SELECT path, ? FROM folders", (blob,))
        db.execute("DROP TABLE folders")
        db.execute("ALTER TABLE damaged RENAME TO folders")
    db.close()
    folder = cache.load("/a")
    assert len(folder) == 0
    assert folder.digest("f", 3, STAMP) is None


def test_threads_may_share_it(cache: StatCache) -> None:
    def work(number: int) -> None:
        for n in range(20):
            folder = f"/{number}/{n}"
            cache.save([(folder, one())])
            assert cache.load(folder).digest("f", 3, STAMP) == DIGEST

    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("name", ["home", "home/statcache.sqlite"])
def test_without_a_place_for_it_nothing_is_remembered(tmp_path: Path, name: str) -> None:
    """A file where its folder should be, and a folder where it should be itself."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch() if name == "home" else path.mkdir()
    cache = StatCache(str(tmp_path / "home" / "statcache.sqlite"))
    cache.save([("/a", one())])
    assert len(cache.load("/a")) == 0
    cache.clear()
    cache.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forked_while_another_thread_is_in_it_is_not_stuck(cache: StatCache) -> None:
    cache.save([("/a", one())])
    with cache._lock:
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)  # ends a child that waits for the lock
            os._exit(0 if cache.load("/a").digest("f", 3, STAMP) == DIGEST else 1)
        assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_opens_its_own(cache: StatCache) -> None:
    cache.save([("/a", one())])
    pid = os.fork()
    if pid == 0:
        is_right = cache.load("/a").digest("f", 3, STAMP) == DIGEST
        cache.save([("/child", one())])
        cache.close()
        os._exit(0 if is_right else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert cache.load("/child").digest("f", 3, STAMP) == DIGEST
    cache.save([("/parent", one())])
    assert cache.load("/a").digest("f", 3, STAMP) == DIGEST
