"""What only the directory store promises: files, modes, leftovers, full disks, forks."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from store_kinds import read, send, views

from asyncart.errors import Denied, Full, Invalid, Unavailable
from asyncart.stores import disk, links, open_store
from asyncart.stores.local import LocalStore, TempName, boot_id
from asyncart.stores.memory import MemoryStore
from asyncart.stores.openfiles import OpenFiles

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="a call that only Linux has")

KEY = "objects/ab/0123456789ab"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def files_below(folder: str | Path) -> list[str]:
    return sorted(name for _, _, names in os.walk(folder) for name in names)


async def test_an_object_is_a_read_only_file_under_its_key(store: LocalStore) -> None:
    """And the umask of the process still decides who may read it."""
    before = os.umask(0o027)
    try:
        await store.write(KEY, views(b"abc"))
        await send(store, KEY + "2", [b"abc"])
    finally:
        os.umask(before)
    for key in (KEY, KEY + "2"):
        path = store.local_path(key)
        assert path == os.path.join(store.root, *key.split("/"))
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o440
        assert Path(path).read_bytes() == b"abc"
    assert stat.S_IMODE(os.stat(store.root).st_mode) == 0o750


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", ".", "..", "a/../b", ".a", "a/.b", "a\\b", "c:a", "a\0b"]
)
async def test_keys_cannot_leave_the_root_or_look_like_temp_files(
    store: LocalStore, key: str
) -> None:
    with pytest.raises(Invalid, match="key"):
        await store.write(key, views(b"x"))
    assert not os.path.exists(store.root)


async def test_opening_and_asking_creates_nothing(store: LocalStore) -> None:
    assert await store.sizes([KEY]) == {}
    assert (await store.list_page()).objects == []
    await store.delete([KEY])
    assert await store.sweep(0) == 0
    assert not os.path.exists(store.root)


async def test_a_directory_that_vanished_is_made_again(store: LocalStore) -> None:
    await store.write(KEY, views(b"1"))
    await store.delete([KEY])
    os.rmdir(os.path.dirname(os.path.join(store.root, KEY)))
    await store.write(KEY, views(b"2"))
    assert await read(store, KEY, 1) == b"2"


# Leftovers

WRITER = """
    import anyio, os, signal, sys
    from asyncart.stores.local import LocalStore

    async def main(root, key):
        store = LocalStore(root)
        upload = await store.begin_upload(key, 20)
        await upload.part(0, 0, [memoryview(b"0123456789")])
        print(upload.token, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    anyio.run(main, *sys.argv[1:])
"""


def killed_writer(store: LocalStore, key: str) -> str:
    """A process that dies in the middle of an upload; returns the token that it had."""
    script = textwrap.dedent(WRITER)
    done = subprocess.run(
        [sys.executable, "-c", script, store.root, key],
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL
    return done.stdout.strip()


@linux_only
async def test_a_killed_upload_is_continued_by_another_process(store: LocalStore) -> None:
    """What was acknowledged is there, unless the machine was restarted since."""
    upload = await store.resume_upload(KEY, killed_writer(store, KEY))
    assert upload is not None
    await upload.part(1, 10, views(b"abcdefghij"))
    await upload.complete(20)
    assert await read(store, KEY, 20) == b"0123456789abcdefghij"
    assert files_below(store.root) == [KEY.rpartition("/")[2]]


async def test_an_upload_from_before_a_restart_is_not_trusted(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages may never have reached the disk: the file is dropped, the caller begins anew."""
    token = killed_writer(store, KEY)
    monkeypatch.setattr("asyncart.stores.local._boot_id", "0" * 32)
    assert await store.resume_upload(KEY, token) is None
    assert files_below(store.root) == []


async def test_sweep_removes_what_dead_writers_left_and_nothing_else(store: LocalStore) -> None:
    """Not what is alive, not what is young, not what is not ours."""
    await store.write(KEY, views(b"x"))
    killed_writer(store, KEY + "a")
    mine = await store.begin_upload(KEY + "b")
    foreign = Path(store.root, "objects", "ab", ".notes.tmp")
    foreign.write_text("not ours")
    assert await store.sweep(3600) == 0
    assert await store.sweep(0) == 1
    assert set(files_below(store.root)) == {KEY.rpartition("/")[2], mine.token, foreign.name}
    await mine.abort()


async def test_sweep_judges_other_machines_by_age_alone(store: LocalStore) -> None:
    """On a shared file system a process number means nothing."""
    await store.write(KEY, views(b"x"))
    elsewhere = TempName("y", "f" * 32, os.getpid(), "00000000")
    path = Path(store.root, "objects", "ab", str(elsewhere))
    path.write_bytes(b"")
    assert await store.sweep(60) == 0
    os.utime(path, (time.time() - 61,) * 2)
    assert await store.sweep(60) == 1


def test_temp_names_are_read_back_as_they_were_written() -> None:
    temp = TempName.new("0123.abc-def")
    assert TempName.parse(str(temp)) == temp
    assert temp.is_writer_alive == bool(boot_id())
    for other in (".tmp", "x.tmp", ".x.tmp", ".x.1-2.tmp", ".x.a-b-c.tmp", ".x.a-1-c", "", "."):
        assert TempName.parse(other) is None


# Folders that cannot be


async def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    """By every way of writing; nothing else is said, and what was there stays."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for root in ("file", "file/below/it", "link"):
        store = LocalStore(tmp_path / root)
        named = tmp_path / root.partition("/")[0]
        says = (
            rf"^{named} is not a folder, and objects belong there: move it away, or set `objects`"
        )
        with pytest.raises(Unavailable, match=says):
            await store.write(KEY, views(b"abc"))
        with pytest.raises(Unavailable, match=says):
            await store.begin_upload(KEY)
        with pytest.raises(Unavailable, match=says):
            await store.adopt(KEY, __file__)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (
            errno.EACCES,
            Denied,
            "cannot be made, and objects belong there: Permission denied: make it",
        ),
        (errno.EROFS, Denied, "cannot be made, and objects belong there: Read-only file system"),
        (errno.ENOENT, Unavailable, "cannot be made, and objects belong there: No such file"),
        (errno.ENOSPC, Full, "cannot be made: disk full"),
        (errno.EDQUOT, Full, "cannot be made: disk full"),
    ],
)
async def test_a_folder_that_cannot_be_made_is_named(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, kind: type, says: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        with pytest.raises(kind, match=f"^{store.root} {says}"):
            await store.write(KEY, views(b"abc"))
    await store.write(KEY, views(b"abc"))
    assert await read(store, KEY, 3) == b"abc"


# Full disks


async def test_a_full_disk_is_told_with_numbers_and_leaves_nothing(disk_2_mib: Path) -> None:
    """Known size: before the first byte. Unknown size: at the part that does not fit. Then all works again."""
    store = LocalStore(disk_2_mib / "store")
    data = os.urandom(3 << 20)
    says = r"disk full: needs 3\.0 MiB, has \d.* free on .*disk; free space and log again"
    with pytest.raises(Unavailable, match=says):
        await store.write(KEY, views(data))
    with pytest.raises(Unavailable, match=says):
        await store.begin_upload(KEY, len(data))
    assert files_below(disk_2_mib) == []
    upload = await store.begin_upload(KEY)
    await upload.part(0, 0, views(data[: 1 << 20]))
    with pytest.raises(Unavailable, match="disk full"):
        await upload.part(1, 1 << 20, views(data[1 << 20 :]))
    await upload.abort()
    assert files_below(disk_2_mib) == []
    await store.write(KEY, views(data[: 1 << 20]))
    assert await read(store, KEY, 1 << 20) == data[: 1 << 20]
    await store.aclose()  # an open file would keep the file system busy


# Open files


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@linux_only
async def test_open_files_are_bounded_and_closed(store: LocalStore) -> None:
    keys = [f"objects/ab/{n}" for n in range(200)]
    for key in keys:
        await store.write(key, views(b"x"))
    await read(store, keys[0], 1)  # worker threads and their pipes exist now
    before = open_descriptors()
    for key in keys:
        await read(store, key, 1)
    assert before + 30 < open_descriptors() <= before + 64
    await store.delete(keys)
    assert open_descriptors() < before
    await store.aclose()


@linux_only
def test_a_forked_child_reads_with_files_of_its_own(tmp_path: Path) -> None:
    """Even if another thread held the lock at the fork; the parent's files stay open."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    files = OpenFiles(4)
    with files.open(str(path)) as parent_fd:
        files._lock.acquire()
        pid = os.fork()
        if not pid:
            signal.alarm(5)
            with files.open(str(path)) as fd:
                os._exit(0 if os.pread(fd, 3, 0) == b"abc" else 1)
        files._lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert os.pread(parent_fd, 3, 0) == b"abc"
    files.close()


# Links and copies


def test_copy_range_copies_what_there_is(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    data = os.urandom(100_000)
    source.write_bytes(data)
    target.write_bytes(b"")
    with source.open("rb") as reader, target.open("r+b") as writer:
        ends = reader.fileno(), writer.fileno()
        assert links.copy_range(*ends, 50_000, source_offset=7, target_offset=3) == 50_000
        assert links.copy_range(*ends, 50_000, source_offset=90_000, target_offset=50_003) == 10_000
        through_memory = links._copy_through_memory(*ends, 50_000, 90_000, 60_003)
        assert through_memory == 10_000
    assert target.read_bytes() == b"\0" * 3 + data[7:50_007] + data[90_000:] * 2


def test_reflink_and_hardlink_say_whether_they_could(tmp_path: Path) -> None:
    """Either the bytes are there under the second name, or nothing is; nothing is overwritten."""
    source = tmp_path / "source"
    source.write_bytes(b"abc")
    for link, name in ((links.reflink, "clone"), (links.hardlink, "link")):
        target = tmp_path / name
        if link(str(source), str(target)):
            assert target.read_bytes() == b"abc"
            with pytest.raises(FileExistsError):
                link(str(source), str(target))
        else:
            assert not target.exists()


# URLs


async def test_open_store_by_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "a b#c?d%e"
    for url, root in [
        (str(odd), odd),
        (odd.as_uri(), odd),
        ("relative/x", tmp_path / "relative" / "x"),
        (f"file://localhost{tmp_path}", tmp_path),
    ]:
        store = await open_store(url)
        assert isinstance(store, LocalStore)
        assert store.root == str(root)
        again = await open_store(store.url)
        assert isinstance(again, LocalStore)
        assert again.root == str(root)
    assert isinstance(await open_store("memory://x"), MemoryStore)


@pytest.mark.parametrize("url", ["", "ftp://x/y", "file://host/x", "file:", "nonsense:x"])
async def test_open_store_refuses_what_it_does_not_know(url: str) -> None:
    with pytest.raises(Invalid, match="file://"):
        await open_store(url)


def test_sizes_are_written_for_people() -> None:
    assert [disk.size_text(n) for n in (0, 1023, 1024, 64 << 20, 3 << 30, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "64.0 MiB",
        "3.0 GiB",
        "5.0 TiB",
    ]
