"""A file that changes while it is read: an error that names it, or its new content; never a torn copy."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from material import content, read_tree
from workplace import KIB, Place, check_hands_empty

from asyncart import aio
from asyncart.engine import reading
from asyncart.errors import AsyncartError, Conflict, Denied, Invalid, NotFound, Unavailable

SMALL, LARGE = 900, 40 * KIB
GROWN = 64 << 20


class Hooked:
    """The `os` of `engine.reading`: calls `hook(event)` around what is done to the file `name`."""

    def __init__(self, name: str, hook: Callable[[str], None]) -> None:
        self._name = name
        self._hook = hook

    def __getattr__(self, attribute: str) -> Any:
        return getattr(os, attribute)

    def open(self, path: str, flags: int, **where: int) -> int:
        if path.endswith(self._name):
            self._hook("open")
        return os.open(path, flags, **where)

    def _around(self, fd: int, read: Callable[[], int]) -> int:
        is_it = os.readlink(f"/proc/self/fd/{fd}").split(" ")[0].endswith(self._name)
        if is_it:
            self._hook("read")
        done = read()
        if is_it:
            self._hook("done")
        return done

    def readv(self, fd: int, buffers: Any) -> int:
        return self._around(fd, lambda: os.readv(fd, buffers))

    def preadv(self, fd: int, buffers: Any, offset: int) -> int:
        return self._around(fd, lambda: os.preadv(fd, buffers, offset))


def rewrite(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.write(os.urandom(size))


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(os.urandom(100))


def grow_large(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(os.urandom(LARGE))


def shrink(path: Path) -> None:
    os.truncate(path, max(path.stat().st_size - 100, 0))


def empty(path: Path) -> None:
    os.truncate(path, 0)


def replace(path: Path) -> None:
    other = path.with_name("other.tmp")
    other.write_bytes(os.urandom(path.stat().st_size))
    other.replace(path)


CHANGES = [rewrite, grow, grow_large, shrink, empty, replace]
# 4 ms is what a clock tick of the kernel lasts: two writes within it leave the same mtime.
LONG_AGO_NS = 10**18


def make_old(path: Path) -> None:
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


async def log_with(
    place: Place, monkeypatch: pytest.MonkeyPatch, size: int, hook: Callable[[str, Path], None]
) -> tuple[str, AsyncartError | None, dict[str, bytes], list[bytes]]:
    """Log a tree while the hook works on one of its files; the contents that the file had."""
    tree = {"a": content("a", 500), "file": content(("file", size), size), "z": content("z", LARGE)}
    source = place.source(tree)
    path = source / "file"
    make_old(path)
    had = [tree["file"]]

    def noting(event: str) -> None:
        hook(event, path)
        if path.exists():
            had.append(path.read_bytes())

    error = None
    async with place.init() as run:
        artifact = place.artifact(source)
        with monkeypatch.context() as patch:
            patch.setattr(reading, "os", Hooked("file", noting))
            try:
                await run.log_artifact(artifact)
            except AsyncartError as caught:
                error = caught
        check_hands_empty(place)
        place.check_store()
        if error is None:
            target = place.fresh("target")
            await artifact.download(target)
            stored = read_tree(target)
            assert stored == {**tree, "file": stored["file"]}
        else:
            with pytest.raises(NotFound):
                await run.use_artifact("data:latest")
            path.write_bytes(tree["file"])
            make_old(path)
            await run.log_artifact(artifact)  # the same draft, once the file is quiet
            target = place.fresh("target")
            await artifact.download(target)
            stored = read_tree(target)
            assert stored == tree
        assert artifact.version == "v0"
    return str(path), error, stored, had


@pytest.mark.parametrize("event", ["open", "read", "done"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_changed_once(
    local_place: Place,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    change: Callable[[Path], None],
    event: str,
) -> None:
    """It is read again: what is stored is all of the new content."""
    times = 0

    def hook(now: str, path: Path) -> None:
        nonlocal times
        if now == event and not times:
            times += 1
            change(path)

    path, error, stored, had = await log_with(local_place, monkeypatch, size, hook)
    assert times == 1
    if error is None:
        assert stored["file"] in had
    else:
        # as when a small file has become a large one: refused rather than guessed at
        assert isinstance(error, Conflict)
        assert path in str(error)
    if change in (rewrite, grow, shrink, replace):
        assert error is None


@pytest.mark.parametrize("change", [rewrite, grow, shrink])
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_changed_always(
    local_place: Place, monkeypatch: pytest.MonkeyPatch, size: int, change: Callable[[Path], None]
) -> None:
    """A file that never rests is an error that names it, and nothing is logged."""
    age = LONG_AGO_NS

    def hook(now: str, path: Path) -> None:
        nonlocal age
        if now == "done":
            change(path)
            age += 1
            os.utime(path, ns=(age, age))

    if size == SMALL:  # its second look is not through the hooked calls; see the next test
        monkeypatch.setattr(reading, "_read_again", always_changed)
    path, error, _, _ = await log_with(local_place, monkeypatch, size, hook)
    assert isinstance(error, Conflict)
    assert path in str(error)
    assert "changed while it was read" in str(error)


def always_changed(listing: Any, row: int, local: str) -> Any:
    raise reading.changed(local)


async def test_changed_in_the_second_look(
    local_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file that is written to between the two stats of its second reading is refused."""
    place = local_place
    source = place.source({"file": content("x", SMALL)})
    path = source / "file"
    make_old(path)
    age = LONG_AGO_NS
    real_fstat = os.fstat

    class Restless(Hooked):
        def fstat(self, fd: int) -> os.stat_result:
            nonlocal age
            for _ in range(2):  # before anybody looks, and after
                found = real_fstat(fd)
                rewrite(path)
                age += 1
                os.utime(path, ns=(age, age))
            return found

    async with place.init() as run:
        with monkeypatch.context() as patch:
            patch.setattr(reading, "os", Restless("/file", lambda event: None))
            with pytest.raises(Conflict, match=str(path)):
                await run.log_artifact(place.artifact(source))
        place.check_store()


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(2, "No such file or directory"), NotFound),
        (PermissionError(13, "Permission denied"), Denied),
        (OSError(5, "Input/output error"), Unavailable),
    ],
)
@pytest.mark.parametrize("event", ["open", "read"])
async def test_cannot_be_read(
    local_place: Place,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    error: OSError,
    kind: type[AsyncartError],
    event: str,
) -> None:
    """Gone, forbidden or broken after the scan: the right class of error, and it names the file."""

    def hook(now: str, path: Path) -> None:
        if now == event:
            raise error

    path, caught, _, _ = await log_with(local_place, monkeypatch, size, hook)
    assert type(caught) is kind
    assert path in str(caught)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
async def test_without_permission(local_place: Place) -> None:
    """The system's own refusal, not a simulated one."""
    source = local_place.source({"file": b"secret"})
    (source / "file").chmod(0)
    async with local_place.init() as run:
        with pytest.raises(Denied, match=str(source / "file")):
            await run.log_artifact(local_place.artifact(source))


async def test_removed_between_adding_and_logging(local_place: Place) -> None:
    """A file that was added and then deleted is NotFound, by its name."""
    source = local_place.source({"file": b"there"})
    artifact = local_place.artifact(source)
    single = local_place.artifact({"x": b"x"}, "single")
    single.add_file(source / "file")
    (source / "file").unlink()
    async with local_place.init() as run:
        with pytest.raises(NotFound, match=str(source / "file")):
            await run.log_artifact(single)
        await run.log_artifact(artifact)
        assert artifact.file_count == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="mkfifo")
@pytest.mark.parametrize("size", [0, SMALL, LARGE])
async def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(
    local_place: Place, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Nobody ever opens its other end."""
    source = local_place.source({"file": content("x", size)})
    path = source / "file"

    def put_fifo(event: str) -> None:
        if event == "open" and path.is_file():
            path.unlink()
            os.mkfifo(path)

    async with local_place.init() as run:
        with monkeypatch.context() as patch:
            patch.setattr(reading, "os", Hooked("file", put_fifo))
            with pytest.raises(Conflict, match=str(path)):
                await run.log_artifact(local_place.artifact(source))
        local_place.check_store()


async def test_what_is_written_to_without_end_is_not_read_without_end(
    local_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file that grows faster than it is read: memory is that of the small file."""
    source = local_place.source({"file": content("x", SMALL)})
    path = source / "file"
    make_old(path)
    looks = 0

    class Growing(Hooked):
        def fstat(self, fd: int) -> os.stat_result:
            nonlocal looks
            looks += 1
            if looks == 1:  # so that it is read again
                os.utime(path)
            found = os.fstat(fd)
            if looks == 2:
                os.truncate(path, GROWN)
            return found

    async with local_place.init() as run:
        tracemalloc.start()
        try:
            with monkeypatch.context() as patch:
                patch.setattr(reading, "os", Growing("/file", lambda event: None))
                with pytest.raises(Conflict, match=str(path)):
                    await run.log_artifact(local_place.artifact(source))
            assert looks >= 3
            assert tracemalloc.get_traced_memory()[1] < GROWN // 2
        finally:
            tracemalloc.stop()


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="/proc")
async def test_a_file_that_calls_itself_empty_and_is_not_is_refused(local_place: Place) -> None:
    """Not stored as an empty one."""
    artifact = aio.Artifact("data", "dataset")
    artifact.add_file("/proc/version")
    async with local_place.init() as run:
        with pytest.raises(Invalid, match="/proc/version"):
            await run.log_artifact(artifact)
