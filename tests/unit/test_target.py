"""Files are written below the root and nowhere else, whole or not at all, and every error says why."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncart.engine import target as target_module
from asyncart.engine.target import Target
from asyncart.errors import AsyncartError, Conflict, Denied, Full, Invalid, NotFound, Unavailable

HELLO = memoryview(b"hello")
Writer = Callable[[Target, str], None]
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to change the user")


@pytest.fixture(params=["descriptors", "paths"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both ways of staying below the root: relative to descriptors, and by path as on Windows."""
    monkeypatch.setattr(target_module, "_HAS_DIR_FDS", request.param == "descriptors")
    return tmp_path / "root"


@pytest.fixture
def target(root: Path) -> Iterator[Target]:
    target = Target(str(root))
    yield target
    target.close()


def tree(root: Path) -> dict[str, bytes | None]:
    """Every file with its bytes, every directory with None; links as their target."""
    found: dict[str, bytes | None] = {}
    for where, directories, names in os.walk(root):
        for name in directories + names:
            path = Path(where, name)
            key = path.relative_to(root).as_posix()
            if path.is_symlink():
                found[key] = os.fsencode(path.readlink())
            else:
                found[key] = path.read_bytes() if path.is_file() else None
    return found


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- whole files ---


@pytest.mark.parametrize("path", ["a", "d/a", "d/e/f/a", "é/日本", ".a", "a" * 255, "é" * 127])
def test_a_file_is_written_with_its_directories(target: Target, root: Path, path: str) -> None:
    info = target.write_file(path, HELLO, False)
    assert info == target.stat(path) == os.lstat(root / path)
    assert (root / path).read_bytes() == b"hello"


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_any_size_is_written_and_nothing_else_is_left(
    target: Target, root: Path, size: int
) -> None:
    data = os.urandom(size)
    target.write_file("a", memoryview(data), False)
    assert tree(root) == {"a": data}


def test_the_stat_is_what_the_file_keeps(target: Target, root: Path) -> None:
    """In particular the ctime, which renaming changes: the stat cache compares it."""
    for path in ("new/a", "a"):
        (root / path).parent.mkdir(exist_ok=True)
        info = target.write_file(path, HELLO, False)
        again = os.lstat(root / path)
        assert (info.st_ctime_ns, info.st_mtime_ns) == (again.st_ctime_ns, again.st_mtime_ns)
        assert (info.st_ino, info.st_dev, info.st_size) == (again.st_ino, again.st_dev, 5)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("large", [False, True])
def test_modes_follow_the_umask(target: Target, umask: int, large: bool) -> None:
    def write(path: str, executable: bool) -> int:
        if not large:
            return target.write_file(path, HELLO, executable).st_mode
        partial = target.begin(path, 5, "k")
        partial.write(0, HELLO)
        return partial.publish(executable).st_mode

    before = os.umask(umask)
    try:
        assert stat.S_IMODE(write("plain", False)) == 0o666 & ~umask
        assert stat.S_IMODE(write("program", True)) == 0o777 & ~umask
        assert stat.S_IMODE(write("program", False)) == 0o666 & ~umask
    finally:
        os.umask(before)


def test_a_regular_file_is_replaced_and_its_other_links_are_not(
    target: Target, root: Path, tmp_path: Path
) -> None:
    (root / "a").write_bytes(b"old")
    os.link(root / "a", tmp_path / "other")
    target.write_file("a", HELLO, False)
    assert (root / "a").read_bytes() == b"hello"
    assert (tmp_path / "other").read_bytes() == b"old"


def test_a_read_only_file_is_replaced(target: Target, root: Path) -> None:
    (root / "a").write_bytes(b"old")
    (root / "a").chmod(0o400)
    target.write_file("a", HELLO, False)
    assert (root / "a").read_bytes() == b"hello"


def test_any_buffer_is_taken(target: Target, root: Path) -> None:
    target.write_file("a", memoryview(b"12345678").cast("I"), False)
    assert (root / "a").read_bytes() == b"12345678"


def test_short_writes_are_continued(
    target: Target, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, memoryview(data)[:7]))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, memoryview(data)[:7], at))
    data = os.urandom(50)
    target.write_file("a", memoryview(data), False)
    partial = target.begin("b", 50, "k")
    partial.write(0, memoryview(data))
    partial.publish(False)
    assert tree(root) == {"a": data, "b": data}


# --- the root ---


def test_the_root_is_made_with_its_parents(root: Path) -> None:
    Target(str(root / "x/y")).write_file("a", HELLO, False)
    assert (root / "x/y/a").read_bytes() == b"hello"


def test_the_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    root.symlink_to("real")
    Target(str(root)).write_file("d/a", HELLO, False)
    assert (tmp_path / "real/d/a").read_bytes() == b"hello"


def test_a_root_that_shall_not_be_made_must_be_there(root: Path) -> None:
    with pytest.raises(NotFound, match="root: no such folder"):
        Target(str(root), create=False)
    assert not root.exists()


def test_a_root_that_cannot_be_made_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As below /proc: that there is no such folder is no news then."""

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(Unavailable, match="root: cannot be made: No such file"):
        Target(str(root))


def test_a_root_that_is_a_file_is_refused(root: Path) -> None:
    root.write_bytes(b"")
    for path in (root, root / "x"):
        with pytest.raises(Denied, match=str(path)):
            Target(str(path))


def test_a_closed_target_refuses(target: Target) -> None:
    target.close()
    with pytest.raises(Invalid, match="closed"):
        target.write_file("a", HELLO, False)
    with pytest.raises(Invalid, match="closed"):
        target.stat("a/b")


# --- stat ---


def test_stat_of_what_is_not_there_is_none(target: Target, root: Path) -> None:
    assert target.stat("a") is None
    assert target.stat("d/e/a") is None
    assert target.stat("d/e/a") is None
    assert not tree(root)


def test_stat_sees_what_was_written_after_it_was_absent(target: Target) -> None:
    assert target.stat("d/e/a") is None
    target.write_file("d/e/a", HELLO, False)
    info = target.stat("d/e/a")
    assert info is not None
    assert info.st_size == 5


def test_stat_does_not_follow_a_link(target: Target, root: Path) -> None:
    (root / "a").symlink_to("/etc/passwd")
    info = target.stat("a")
    assert info is not None
    assert stat.S_ISLNK(info.st_mode)


# --- what is in the way ---


def write_large(target: Target, path: str) -> None:
    partial = target.begin(path, 5, "key")
    partial.write(0, HELLO)
    try:
        partial.publish(False)
    except AsyncartError:
        partial.discard()
        raise


def write_small(target: Target, path: str) -> None:
    target.write_file(path, HELLO, False)


WRITERS = pytest.mark.parametrize("write", [write_small, write_large])


@WRITERS
@pytest.mark.parametrize("points_to", ["../outside", "inside", "missing", "/etc/passwd", "link"])
def test_a_link_in_place_of_the_file_is_refused(
    target: Target, root: Path, tmp_path: Path, write: Writer, points_to: str
) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    (root / "inside").write_bytes(b"mine")
    (root / "link").symlink_to(points_to)
    before = tree(tmp_path)
    with pytest.raises(Denied, match=r"root/link is a symbolic link.*remove the link"):
        write(target, "link")
    assert tree(tmp_path) == before


@WRITERS
@pytest.mark.parametrize("path", ["link/a", "link/d/a", "d/link/a", "d/link/e/f/a"])
@pytest.mark.parametrize("points_to", ["/tmp", "..", ".", "missing", "real"])
def test_a_link_in_place_of_a_directory_is_refused(
    target: Target, root: Path, tmp_path: Path, write: Writer, path: str, points_to: str
) -> None:
    (root / "d/real").mkdir(parents=True)
    (root / "real").mkdir()
    link = root / path[: path.index("link") + 4]
    link.symlink_to(points_to)
    before = tree(tmp_path)
    with pytest.raises(Denied, match=r"link is a symbolic link.*remove the link"):
        write(target, path)
    if points_to != "missing":
        with pytest.raises(Denied, match="link is a symbolic link"):
            target.stat(path)
    assert tree(tmp_path) == before


@WRITERS
def test_a_directory_in_place_of_the_file_is_refused(
    target: Target, root: Path, write: Writer
) -> None:
    (root / "d/a").mkdir(parents=True)
    with pytest.raises(Conflict, match=r"root/d/a is a directory.*move it away"):
        write(target, "d/a")
    assert tree(root) == {"d": None, "d/a": None}


@WRITERS
def test_a_directory_that_we_made_ourselves_too(target: Target, root: Path, write: Writer) -> None:
    write(target, "d/a/b")
    with pytest.raises((Conflict, Denied), match="root/d/a"):
        write(target, "d/a")
    assert tree(root) == {"d": None, "d/a": None, "d/a/b": b"hello"}


@WRITERS
def test_a_file_in_place_of_a_directory_is_refused(
    target: Target, root: Path, write: Writer
) -> None:
    (root / "d").write_bytes(b"mine")
    for path in ("d/a", "d/e/a"):
        with pytest.raises(Denied, match="root/d is a file, and a directory"):
            write(target, path)
        with pytest.raises(Denied, match="root/d is a file"):
            target.stat(path)
    assert tree(root) == {"d": b"mine"}


@WRITERS
def test_special_files_in_the_way_are_refused(target: Target, root: Path, write: Writer) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(root):
        server.bind("socket")
    for name in ("fifo", "socket"):
        with pytest.raises(Conflict, match=f"root/{name} is a FIFO, socket or device"):
            write(target, name)
        with pytest.raises(Denied, match=f"root/{name}"):
            write(target, f"{name}/a")
    assert sorted(tree(root)) == ["fifo", "socket"]


@WRITERS
@pytest.mark.parametrize(
    "path", ["", "/a", "../a", "a/../../b", "a//b", "./a", "a/", "a\0", "a\\b", "\ud800", "nul"]
)
def test_hostile_paths_are_refused_here_too(
    target: Target, root: Path, write: Writer, path: str
) -> None:
    """Whoever forgets to check a path of a manifest still cannot get out."""
    with pytest.raises(Invalid, match="entry path"):
        write(target, path)
    with pytest.raises(Invalid, match="entry path"):
        target.stat(path)
    assert not tree(root)


def test_a_directory_that_is_replaced_by_a_link_while_it_is_open(
    target: Target, root: Path, tmp_path: Path
) -> None:
    """By path (Windows) there is no defence against this; by descriptor the old directory is written to."""
    if not target_module._HAS_DIR_FDS:
        pytest.skip("promised with directory descriptors only")
    target.write_file("d/a", HELLO, False)
    (root / "d").rename(root / "old")
    (root / "d").symlink_to(tmp_path)
    target.write_file("d/b", HELLO, False)
    assert (root / "old/b").read_bytes() == b"hello"
    assert not (tmp_path / "b").exists()


def test_a_directory_that_is_removed_while_it_is_open(target: Target, root: Path) -> None:
    if not target_module._HAS_DIR_FDS:
        pytest.skip("by path no directory stays open: it is made again")
    target.write_file("d/a", HELLO, False)
    shutil.rmtree(root / "d")
    with pytest.raises(Conflict, match=r"root/d/b: its directory was removed.*run it again"):
        target.write_file("d/b", HELLO, False)


# --- large files ---


def test_a_large_file_is_written_in_any_order(target: Target, root: Path) -> None:
    partial = target.begin("d/a", 10, "key")
    assert not partial.was_there
    assert target.stat("d/a") is None
    partial.write(5, memoryview(b"56789"))
    partial.write(0, memoryview(b"01234"))
    buffer = bytearray(4)
    partial.read_into(3, memoryview(buffer))
    assert buffer == b"3456"
    info = partial.publish(False)
    assert info == os.lstat(root / "d/a")
    assert tree(root) == {"d": None, "d/a": b"0123456789"}


def test_its_space_is_allocated_at_once(target: Target) -> None:
    partial = target.begin("a", 1 << 20, "key")
    info = os.fstat(partial.fileno())
    assert info.st_size == 1 << 20
    assert info.st_blocks * 512 >= 1 << 20
    partial.discard()


def test_an_empty_large_file(target: Target, root: Path) -> None:
    target.begin("a", 0, "key").publish(True)
    assert tree(root) == {"a": b""}


@pytest.mark.parametrize("name", ["a", "é" * 127, "x" * 255])
def test_what_was_kept_is_resumed(root: Path, name: str) -> None:
    first = Target(str(root)).begin(f"d/{name}", 10, "key")
    first.write(0, HELLO)
    first.keep()
    second = Target(str(root)).begin(f"d/{name}", 10, "key")
    assert second.was_there
    buffer = bytearray(5)
    second.read_into(0, memoryview(buffer))
    assert buffer == b"hello"
    second.write(5, memoryview(b"world"))
    second.publish(False)
    assert tree(root) == {"d": None, f"d/{name}": b"helloworld"}


def test_what_a_killed_process_left_is_resumed(root: Path) -> None:
    code = (
        "import os, sys; from asyncart.engine.target import Target\n"
        "p = Target(sys.argv[1]).begin('a', 10, 'key'); p.write(0, memoryview(b'hello')); os._exit(9)"
    )
    where = Path(target_module.__file__).parents[2]
    assert (
        subprocess.run([sys.executable, "-c", code, str(root)], cwd=where, check=False).returncode
        == 9
    )
    partial = Target(str(root)).begin("a", 10, "key")
    assert partial.was_there
    partial.discard()
    assert not tree(root)


def test_another_key_is_another_content(root: Path) -> None:
    target = Target(str(root))
    target.begin("a", 10, "old").keep()
    partial = target.begin("a", 10, "new")
    assert not partial.was_there
    partial.discard()


def test_a_partial_file_of_another_size_gets_the_right_one(root: Path) -> None:
    target = Target(str(root))
    for size in (10, 5, 20, 0):
        partial = target.begin("a", size, "key")
        assert os.fstat(partial.fileno()).st_size == size
        partial.keep()


def test_two_at_once_do_not_share_a_partial_file(root: Path) -> None:
    """The second one gets a file of its own; both succeed."""
    target = Target(str(root))
    one = target.begin("a", 5, "key")
    two = Target(str(root)).begin("a", 5, "key")
    assert not two.was_there
    one.write(0, HELLO)
    two.write(0, memoryview(b"HELLO"))
    two.publish(False)
    one.publish(False)
    assert tree(root) == {"a": b"hello"}


def test_a_hard_link_under_the_name_of_the_partial_file_is_not_written(
    root: Path, tmp_path: Path
) -> None:
    target = Target(str(root))
    target.begin("a", 5, "key").keep()
    (partial_path,) = root.iterdir()
    (tmp_path / "precious").write_bytes(b"mine!")
    partial_path.unlink()
    os.link(tmp_path / "precious", partial_path)
    partial = target.begin("a", 5, "key")
    partial.write(0, HELLO)
    partial.publish(False)
    assert (tmp_path / "precious").read_bytes() == b"mine!"
    assert (root / "a").read_bytes() == b"hello"


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_other_things_under_the_name_of_the_partial_file(
    root: Path, tmp_path: Path, kind: str
) -> None:
    target = Target(str(root))
    target.begin("a", 5, "key").keep()
    (partial_path,) = root.iterdir()
    partial_path.unlink()
    (tmp_path / "precious").write_bytes(b"mine!")
    match kind:
        case "link":
            partial_path.symlink_to(tmp_path / "precious")
        case "fifo":
            os.mkfifo(partial_path)
        case "directory":
            partial_path.mkdir()
    partial = target.begin("a", 5, "key")
    partial.write(0, HELLO)
    partial.publish(False)
    assert (tmp_path / "precious").read_bytes() == b"mine!"
    assert (root / "a").read_bytes() == b"hello"


@NEEDS_ROOT
def test_a_partial_file_of_another_user_is_not_used(root: Path) -> None:
    target = Target(str(root))
    target.begin("a", 5, "key").keep()
    (partial_path,) = root.iterdir()
    os.chown(partial_path, 12345, 12345)
    partial = target.begin("a", 5, "key")
    assert not partial.was_there
    partial.discard()
    assert partial_path.exists()


def test_a_partial_file_that_was_made_shorter_is_an_error(target: Target) -> None:
    partial = target.begin("a", 10, "key")
    os.ftruncate(partial.fileno(), 5)
    with pytest.raises(Conflict, match="made shorter"):
        partial.read_into(0, memoryview(bytearray(10)))
    partial.discard()


def test_keep_and_discard_may_be_repeated(target: Target, root: Path) -> None:
    partial = target.begin("a", 5, "key")
    partial.discard()
    partial.discard()
    partial.keep()
    assert not tree(root)


# --- errors of the system ---


def test_names_that_the_file_system_refuses_are_invalid(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real case: 255 bytes are too long for eCryptfs, which allows 143."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENAMETOOLONG, "File name too long")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(Invalid, match=r"root/a: File name too long.*exclude"):
        target.write_file("a", HELLO, False)


def test_a_full_disk_is_told_in_numbers_as_far_as_they_are_known(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a quota leaves nobody says, and a folder needs nothing that could be named."""

    def said(call: str, number: int) -> str:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(Full) as caught:
                target.write_file("d/a", HELLO, False)
        return str(caught.value)

    root, go_on = (
        re.escape(target.root),
        "free some space, or download into another folder; run again",
    )
    full, quota = os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)
    assert re.match(
        rf"{root}/d: {full}: [0-9,]+ bytes are free: {go_on}", said("mkdir", errno.ENOSPC)
    )
    assert said("mkdir", errno.EDQUOT).startswith(f"{target.root}/d: {quota}: {go_on}")
    pattern = rf"{root}/d/a: {full}: 5 bytes are needed, [0-9,]+ are free in {root}: {go_on}"
    assert re.match(pattern, said("write", errno.ENOSPC))
    assert said("write", errno.EDQUOT).startswith(
        f"{target.root}/d/a: {quota}: 5 bytes are needed: {go_on}"
    )


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, Denied),
        (errno.EROFS, Denied),
        (errno.ENOSPC, Full),
        (errno.EDQUOT, Full),
        (errno.EIO, Unavailable),
        (errno.EMFILE, Unavailable),
        (errno.EFBIG, Unavailable),
        (errno.ENAMETOOLONG, Invalid),
        (errno.EISDIR, Denied),
    ],
)
@pytest.mark.parametrize("call", ["open", "write", "replace", "fstat", "close", "pwrite", "fchmod"])
def test_every_error_is_ours_names_the_file_and_leaves_nothing(
    target: Target, root: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type, call: str
) -> None:
    """Failure injected into each system call in turn (close fails after closing, as on NFS)."""
    if call == "open" and number == errno.EISDIR:
        pytest.skip("a new file is not a directory")
    target.write_file("d/before", HELLO, False)
    before = tree(root)
    real = getattr(os, call)
    fds = open_fds()

    def fail(*arguments: object, **named: object) -> object:
        if call == "close":
            real(*arguments)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        if call not in ("pwrite", "fchmod"):
            with pytest.raises(kind, match="root/d/a") as caught:
                target.write_file("d/a", HELLO, False)
            assert not isinstance(caught.value.__context__, AsyncartError)
    if call in ("pwrite", "fchmod"):
        partial = target.begin("d/a", 5, "key")
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            failing = partial.write if call == "pwrite" else lambda *_: partial.publish(True)
            with pytest.raises(kind, match="root/d/a"):
                failing(0, HELLO)
        partial.discard()
    assert tree(root) == before
    assert open_fds() <= fds  # less, if the collector ran


@NEEDS_ROOT
def test_a_directory_without_permission_is_denied(root: Path) -> None:
    """In a child process that gave up being root."""
    root.mkdir()
    (root / "d").mkdir()
    (root / "d").chmod(0o555)
    for part in (root, *root.parents):
        if (
            part.stat().st_uid == 0
            and part != Path("/")
            and str(part).startswith(tempfile.gettempdir())
        ):
            part.chmod(0o755)
    code = (
        "import os, sys\n"
        "from asyncart.engine.target import Target\n"
        "from asyncart.errors import Denied\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: Target(sys.argv[1]).write_file('d/a', memoryview(b'x'), False)\n"
        "except Denied as error: print(error)"
    )
    where = Path(target_module.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        cwd=where,
        check=False,
        capture_output=True,
        text=True,
    )
    assert f"{root}/d/a: Permission denied" in done.stdout, done.stderr


def test_a_full_disk_is_a_clean_error_before_the_work(disk_1_mib: Path) -> None:
    target = Target(str(disk_1_mib))
    target.write_file("a", HELLO, False)
    with pytest.raises(
        Unavailable, match=r"disk/large: No space.* 2,097,152 bytes are needed, .* are free"
    ):
        target.begin("large", 2 << 20, "key")
    with pytest.raises(Unavailable, match=r"disk/b: No space.* 2,000,000 bytes are needed"):
        target.write_file("b", memoryview(bytes(2_000_000)), False)
    assert tree(disk_1_mib) == {"a": b"hello"}
    target.begin("large", 900_000, "key").publish(False)
    target.close()


def test_a_full_disk_keeps_what_was_there(disk_1_mib: Path) -> None:
    target = Target(str(disk_1_mib))
    partial = target.begin("large", 500_000, "key")
    partial.write(0, HELLO)
    partial.keep()
    with pytest.raises(Unavailable):
        target.begin("large", 2 << 20, "key")
    again = target.begin("large", 500_000, "key")
    buffer = bytearray(5)
    again.read_into(0, memoryview(buffer))
    assert buffer == b"hello"
    again.discard()
    target.close()


# --- many directories, many threads, forks ---


def test_descriptors_are_bounded_and_closed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not target_module._HAS_DIR_FDS:
        pytest.skip("there are none")
    monkeypatch.setattr(target_module, "MAX_OPEN_DIRECTORIES", 8)
    before = open_fds()
    target = Target(str(root))
    for number in range(100):
        target.write_file(f"{number % 37}/{number % 5}/a/{number}", HELLO, False)
        assert open_fds() - before <= 9
    assert len(list(root.glob("*/*/a/*"))) == 100
    target.close()
    del target
    assert open_fds() <= before


def test_very_deep_trees(root: Path) -> None:
    """Deeper than PATH_MAX would allow from the root of the file system; no recursion."""
    if not target_module._HAS_DIR_FDS:
        pytest.skip("a path from the root of the file system is limited to 4,096 bytes")
    target = Target(str(root))
    path = "/".join(["d"] * 2040)
    target.write_file(path, HELLO, False)
    info = target.stat(path)
    assert info is not None
    assert info.st_size == 5
    target.begin(path + "2", 5, "key").keep()
    assert target.remove_temps(partials_older_than_s=0) == 1
    target.close()
    subprocess.run(["rm", "-rf", str(root)], check=True)


def test_threads_write_the_same_new_tree(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "MAX_OPEN_DIRECTORIES", 4)
    target = Target(str(root))
    errors: list[BaseException] = []
    paths = [f"{n % 3}/{n % 5}/{n % 7}/f{n % 100}" for n in range(300)]

    def work(shift: int) -> None:
        try:
            for path in paths[shift:] + paths[:shift]:
                target.write_file(path, memoryview(path.encode()), False)
                assert target.stat(path) is not None
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(shift,)) for shift in (0, 50, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    files = {path: data for path, data in tree(root).items() if data is not None}
    assert files == {path: path.encode() for path in paths}


def test_a_fork_finds_other_temporary_names(target: Target, root: Path) -> None:
    """Parent and child have the same token and counter."""
    name = f".a.{target._token}0{target_module.TEMP_SUFFIX}"
    (root / name).write_bytes(b"of the other process")
    target.write_file("a", HELLO, False)
    assert tree(root) == {"a": b"hello", name: b"of the other process"}


# --- leftovers ---


def test_leftovers_are_removed_and_nothing_else(target: Target, root: Path, tmp_path: Path) -> None:
    target.write_file("d/e/a", HELLO, False)
    partial = target.begin("d/e/large", 5, "held")
    target.begin("d/large", 5, "left").keep()
    (root / "d/e/.a.0123456789abc.asyncart-tmp").write_bytes(b"")
    (root / ".a.0123456789abc.asyncart-tmp").write_bytes(b"")
    (root / "d/.logged.0123456789abc.asyncart-tmp").write_bytes(b"an entry of the artifact")
    (root / "d/x.asyncart-tmp").write_bytes(b"not a name of ours")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/.a.0123456789abc.asyncart-tmp").write_bytes(b"")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / ".l.0123456789abc.asyncart-tmp").symlink_to(tmp_path / "outside")
    keep = {"d/.logged.0123456789abc.asyncart-tmp"}
    assert target.remove_temps(keep=keep) == 0  # too young
    assert target.remove_temps(temps_older_than_s=0, keep=keep) == 2
    assert target.remove_temps(partials_older_than_s=0, keep=keep) == 1
    partial.write(0, HELLO)
    partial.publish(False)
    assert sorted(path for path, data in tree(root).items() if data is not None) == [
        ".l.0123456789abc.asyncart-tmp",
        "d/.logged.0123456789abc.asyncart-tmp",
        "d/e/a",
        "d/e/large",
        "d/x.asyncart-tmp",
        "link",
    ]
    assert len(list((tmp_path / "outside").iterdir())) == 1


def test_our_own_names_are_recognised(
    target: Target, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the name of the file is: the leftover of a kill is found."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, "_publish", die)
        patch.setattr(target_module, "_unlink", lambda *_: True)
        for name in ("a", "é" * 127, "x" * 255, "a.b.asyncart-tmp"):
            with pytest.raises(KeyboardInterrupt):
                target.write_file(name, HELLO, False)
    assert len(tree(root)) == 4
    assert target.remove_temps(temps_older_than_s=0) == 4
    assert not tree(root)
