"""Whatever lies in the download folder, and whatever is planted there meanwhile, nothing outside changes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncart.engine import target as target_module
from asyncart.engine.target import Target
from asyncart.errors import AsyncartError

NAMES = ["a", "b", "c"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
HOSTILE = st.lists(st.sampled_from([*NAMES, "..", ".", "", "/", "\\", "C:", "\0"]), max_size=5).map(
    "/".join
)
LINKS = st.sampled_from(
    [
        "OUT",
        "OUT/d",
        "OUT/f",
        "OUT/new",
        "..",
        "../outside",
        "../outside/d",
        "../../outside/f",
        ".",
        "a",
        "b/c",
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PATHS | HOSTILE, st.just("")),
        st.tuples(st.just("large"), PATHS | HOSTILE, st.just("")),
        st.tuples(st.just("kept"), PATHS, st.just("")),
        st.tuples(st.just("stat"), PATHS | HOSTILE, st.just("")),
        st.tuples(st.just("link"), PATHS, LINKS),
        st.tuples(st.just("hardlink"), PATHS, st.just("")),
        st.tuples(st.just("directory"), PATHS, st.just("")),
        st.tuples(st.just("remove"), PATHS, st.just("")),
        st.tuples(st.just("replace"), PATHS, LINKS),
        st.tuples(st.just("clean"), st.just(""), st.just("")),
    ),
    max_size=25,
)


@contextlib.contextmanager
def places() -> Iterator[tuple[Path, Path]]:
    """A download folder, and beside it what must not change."""
    with tempfile.TemporaryDirectory() as where:
        root, outside = Path(where, "root"), Path(where, "outside")
        (outside / "d").mkdir(parents=True)
        root.mkdir()
        for path in ("f", "d/a", "d/b", ".a.0123456789abc.asyncart-tmp"):
            (outside / path).write_bytes(path.encode())
        yield root, outside


def facts(top: Path) -> dict[str, object]:
    """Everything about the tree that a write could change."""
    found: dict[str, object] = {}
    for where, directories, names in os.walk(top):
        for path in (Path(where, name) for name in [*directories, *names, "."]):
            info = path.lstat()
            content = path.read_bytes() if path.is_file() else None
            found[str(path)] = (info.st_mode, info.st_ino, info.st_size, info.st_mtime_ns, content)
    return found


def links(root: Path) -> dict[str, str]:
    return {
        str(Path(where, name)): os.readlink(Path(where, name))
        for where, directories, names in os.walk(root)
        for name in directories + names
        if Path(where, name).is_symlink()
    }


def write_large(target: Target, path: str, *, publish: bool) -> None:
    partial = target.begin(path, 8, "key")
    try:
        partial.write(0, memoryview(b"EVIL EVI"))
        partial.publish(False) if publish else partial.keep()
    finally:
        partial.discard()


def take(step: tuple[str, str, str], target: Target, root: Path, outside: Path) -> None:
    """One step: of the download, or of somebody who wants it to write elsewhere."""
    what, path, points_to = step
    place = root / path if what in ("link", "hardlink", "directory", "remove", "replace") else root
    match what:
        case "write":
            target.write_file(path, memoryview(b"EVIL"), False)
        case "large":
            write_large(target, path, publish=True)
        case "kept":
            write_large(target, path, publish=False)
        case "stat":
            target.stat(path)
        case "clean":
            target.remove_temps(temps_older_than_s=0, partials_older_than_s=0)
        case "remove" | "replace" | "link" | "hardlink" | "directory":
            if any(part.is_symlink() for part in list(place.parents)[: len(Path(path).parts) - 1]):
                return  # the attacker, too, must not change what is outside
            if what in ("remove", "replace"):
                shutil.rmtree(
                    place
                ) if place.is_dir() and not place.is_symlink() else place.unlink()
            if what in ("link", "replace"):
                place.symlink_to(points_to.replace("OUT", str(outside)))
            elif what == "hardlink":
                # where a partial file of ours would lie
                os.link(
                    root.parent / "hard", place.parent / f".{place.name}.{KEY_TAG}.asyncart-partial"
                )
            elif what == "directory":
                place.mkdir()


KEY_TAG = target_module.blake3(b"key").hexdigest()[:8]


@pytest.mark.parametrize("by_descriptor", [True, False], ids=["descriptors", "paths"])
@given(steps=STEPS)
@settings(max_examples=150, deadline=None)
def test_nothing_outside_changes_whatever_is_planted(
    by_descriptor: bool, steps: list[tuple[str, str, str]]
) -> None:
    """Links stay links and are never written through; only our own errors come out."""
    with places() as (root, outside), pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_module, "_HAS_DIR_FDS", by_descriptor)
        (root.parent / "hard").write_bytes(b"many names")
        target = Target(str(root))
        before = facts(outside)
        for step in steps:
            known = links(root)
            is_ours = step[0] in ("write", "large", "kept", "stat", "clean")
            try:
                take(step, target, root, outside)
            except AsyncartError:
                assert is_ours
            except OSError:
                assert not is_ours
            if is_ours:
                survivors = links(root)
                for path, points_to in known.items():
                    # In a directory that we made, a link planted since may be replaced, never followed.
                    assert survivors.get(path, points_to) == points_to
        target.close()
        assert facts(outside) == before
        assert (root.parent / "hard").read_bytes() == b"many names"
        assert sorted(path.name for path in root.parent.iterdir()) == ["hard", "outside", "root"]


def test_a_race_between_writing_and_planting_links() -> None:
    """A thread swaps a directory with a link to the outside, as fast as it can, while we write through it."""
    if not target_module._HAS_DIR_FDS:
        pytest.skip("promised with directory descriptors only")
    with places() as (root, outside):
        before = facts(outside)
        done = threading.Event()
        swaps = 0

        def plant() -> None:
            nonlocal swaps
            while not done.is_set():
                with contextlib.suppress(OSError):
                    os.rename(root / "d", root / "old")
                with contextlib.suppress(OSError):
                    os.symlink(outside, root / "d")
                with contextlib.suppress(OSError):
                    os.unlink(root / "d")
                with contextlib.suppress(OSError):
                    os.mkdir(root / "d")
                shutil.rmtree(root / "old", ignore_errors=True)
                swaps += 1

        attacker = threading.Thread(target=plant)
        attacker.start()
        written = refused = 0
        try:
            for attempt in range(20_000):
                if swaps >= 300 and written >= 100 and refused >= 100:
                    break
                target = Target(
                    str(root)
                )  # a new one: an open directory cannot be swapped any more
                for path in ("d/f", "d/e/f"):
                    try:
                        target.write_file(path, memoryview(b"EVIL"), False)
                        written += 1
                    except AsyncartError:
                        refused += 1
                if attempt % 10 == 0:
                    with contextlib.suppress(AsyncartError):
                        target.remove_temps(temps_older_than_s=0)
                target.close()
        finally:
            done.set()
            attacker.join()
        assert facts(outside) == before
        assert min(swaps, written, refused) >= 100  # there was a race
