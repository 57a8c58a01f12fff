"""Logging and downloading with worker processes gives what one process gives, whatever happens to them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from services import S3Server

import asyncart.aio as asyncart
from asyncart.aio import commit
from asyncart.aio.ledger import Ledger
from asyncart.engine import listing
from asyncart.engine import tree as reading
from asyncart.engine.listing import Listing
from asyncart.engine.target import TEMP_SUFFIX
from asyncart.errors import Conflict, Corrupt, Full, NotFound, Unavailable
from asyncart.model import Progress
from asyncart.workers import choice, downloading, wire
from asyncart.workers.process import Worker

SMALL = 400
LARGE = (9 << 20, 12 << 20)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASYNCART_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ASYNCART_WORKERS", "2")
    return tmp_path / "home"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Small files in folders, two large ones, empty ones, and the same content far apart."""
    root = tmp_path / "tree"
    blob = os.urandom(1 << 20)
    for i in range(SMALL):
        path = root / f"d{i % 7}" / f"f{i:04d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob[i * 100 : i * 100 + 500 + i] if i % 20 else b"")
    for i, size in enumerate(LARGE):
        (root / f"large{i}").write_bytes(os.urandom(size))
    (root / "d1" / "f0001.bin").chmod(0o755)
    for first, again in (("d2/f0002.bin", "d6/again.bin"), ("d3/f0003.bin", "a/again.bin")):
        (root / again).parent.mkdir(exist_ok=True)
        (root / again).write_bytes((root / first).read_bytes())
    return root


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    """Every worker that the test starts; at its end all of them must be gone, and reaped."""
    workers: list[Worker] = []
    start = Worker.__init__

    def noted(self: Worker, opening: wire.Open) -> None:
        start(self, opening)
        workers.append(self)

    monkeypatch.setattr(Worker, "__init__", noted)
    yield workers
    assert workers
    assert [pid for worker in workers if (pid := worker.pid) and is_running(pid)] == []


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def snapshot(root: Path) -> dict[str, tuple[bytes, bool]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), os.access(path, os.X_OK))
        for path in root.rglob("*")
        if path.is_file()
    }


def stored_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "store").rglob("*") if path.is_file())


async def log(tree: Path, **options: Any) -> asyncart.Artifact:
    async with asyncart.init(project="p") as run:
        artifact = asyncart.Artifact("data", "dataset")
        artifact.add_dir(tree)
        return await run.log_artifact(artifact, **options)


async def test_it_is_the_same_as_with_one_process(
    tree: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[Worker]
) -> None:
    several = await log(tree)
    assert len(started) == 2
    folder = await several.download(tmp_path / "out")
    assert len(started) == 4
    assert snapshot(Path(folder)) == snapshot(tree)

    monkeypatch.setenv("ASYNCART_WORKERS", "1")
    monkeypatch.setenv("ASYNCART_HOME", str(tmp_path / "other"))
    one = await log(tree)
    assert len(started) == 4
    assert one.digest == several.digest
    assert one.size == several.size
    # what is in the tree twice is stored once, whoever read it
    extra = stored_bytes(home) - stored_bytes(tmp_path / "other")
    assert abs(extra) < 4096  # the manifests name other objects


async def test_a_disk_that_they_fill(tree: Path, disk_1_mib: Path, started: list[Worker]) -> None:
    """The error says the same as that of one process, and counts as its class."""
    (tree / "large0").unlink()
    (tree / "large1").write_bytes(os.urandom(1 << 20))
    artifact = await log(tree)
    with pytest.raises(
        Full, match=rf"bytes are needed, [0-9,]+ are free in {disk_1_mib}/out: free"
    ):
        await artifact.download(disk_1_mib / "out")
    assert len(started) == 4


@pytest.mark.parametrize("steps", ["one", "several"])
async def test_a_list_of_other_files_is_refused(
    tree: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[Worker],
    steps: str,
) -> None:
    """Also where workers have brought files already: this process reads the list, and ends them."""
    if steps == "several":
        monkeypatch.setattr(listing, "BLOCK_ENTRIES", 8)
        monkeypatch.setattr(reading, "READ_BYTES", 1)
    await log(tree)
    with closing(sqlite3.connect(home / "catalog.sqlite", timeout=30)) as catalog, catalog:
        catalog.execute("UPDATE versions SET digest = ?", (b"other files".ljust(32),))
    async with asyncart.init(project="p") as run:
        artifact = await run.use_artifact("data:v0")
        with pytest.raises(Corrupt, match=r"data:v0: .* lists other files"):
            await artifact.download(tmp_path / "out")
    assert len(started) == 4
    assert (snapshot(tmp_path / "out") == {}) == (steps == "one")


async def test_logging_again_sends_nothing(tree: Path, home: Path, started: list[Worker]) -> None:
    await log(tree)
    before = stored_bytes(home)
    again = await log(tree)
    assert again.version == "v0"
    assert stored_bytes(home) == before
    (tree / "d1" / "new.bin").write_bytes(b"new")
    assert (await log(tree)).version == "v1"
    assert stored_bytes(home) < before + (1 << 20)


async def test_the_same_content_everywhere_is_stored_once(
    tmp_path: Path, home: Path, started: list[Worker]
) -> None:
    """Both workers meet it all the time, while it is not stored yet."""
    tree = tmp_path / "copies"
    tree.mkdir()
    for i in range(600):
        (tree / f"{i:04d}").write_bytes(b"%d" % (i % 3) * 10_000)
    artifact = await log(tree)
    assert len(started) == 2
    assert stored_bytes(home) < 3 * 20_000 + 50_000
    assert snapshot(Path(await artifact.download(tmp_path / "out"))) == snapshot(tree)


async def test_what_was_downloaded_is_not_read_again(
    tree: Path, tmp_path: Path, started: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the workers wrote is in the stat cache, also of a folder that both wrote to."""
    monkeypatch.setattr(choice, "STEP_FILES", 50)
    artifact = await log(tree)
    out = tmp_path / "out"
    await artifact.download(out)

    def no_reading(local: str) -> bytes:
        raise AssertionError(f"{local} is read")

    monkeypatch.setattr("asyncart.engine.download.file_digest", no_reading)
    events: list[Progress] = []
    await artifact.download(out, progress=events.append)
    assert events[-1].bytes_moved == 0
    assert len(started) == 4  # none for a folder that is complete


async def test_a_warm_download_finds_what_is_missing(
    tree: Path, tmp_path: Path, started: list[Worker]
) -> None:
    artifact = await log(tree)
    out = tmp_path / "out"
    await artifact.download(out)
    (out / "d1" / "f0008.bin").unlink()
    (out / "large0").write_bytes(b"other")
    await artifact.download(out)
    assert snapshot(out) == snapshot(tree)


async def test_progress_adds_up(tree: Path, tmp_path: Path, started: list[Worker]) -> None:
    files = snapshot(tree)
    total = sum(len(data) for data, _ in files.values())
    events: list[Progress] = []
    artifact = await log(tree, progress=events.append)
    assert (events[-1].files, events[-1].bytes) == (len(files), total)
    # two small files are there twice; which of the two is the copy does not matter
    twice = sum(len(files[path][0]) for path in ("d6/again.bin", "a/again.bin"))
    assert events[-1].bytes_deduplicated == twice
    assert events[-1].bytes_moved == total - twice

    events.clear()
    await artifact.download(tmp_path / "out", progress=events.append)
    assert (events[-1].files, events[-1].bytes) == (len(files), total)
    assert events[-1].bytes_moved == total


async def test_errors_name_the_file(
    tree: Path, started: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = commit._scan

    def scan_and_lose(*arguments: Any) -> Listing:
        listing = scan(*arguments)
        (tree / "d4" / "f0004.bin").unlink()
        return listing

    monkeypatch.setattr(commit, "_scan", scan_and_lose)
    with pytest.raises(NotFound, match=r"d4/f0004\.bin disappeared"):
        await log(tree)
    assert len(started) == 2
    monkeypatch.setattr(commit, "_scan", scan)
    assert (await log(tree)).version == "v0"


async def test_a_conflict_is_tried_once_more_without_them(
    tree: Path, tmp_path: Path, started: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector took something meanwhile: what the catalog says to a worker is what it says here."""
    add_stored = Ledger.add_stored
    refused: list[int] = []

    async def refuse_once(self: Ledger, *arguments: Any) -> None:
        if not refused:
            refused.append(1)
            raise Conflict("it was collected")
        await add_stored(self, *arguments)

    monkeypatch.setattr(Ledger, "add_stored", refuse_once)
    artifact = await log(tree)
    assert refused
    assert len(started) == 2
    assert snapshot(Path(await artifact.download(tmp_path / "out"))) == snapshot(tree)


async def test_wrong_bytes_never_reach_the_folder(
    tree: Path, home: Path, tmp_path: Path, started: list[Worker]
) -> None:
    artifact = await log(tree)
    victim = next(
        path
        for path in sorted((home / "store").rglob("*"))
        if path.is_file() and path.stat().st_size == LARGE[0]
    )
    victim.chmod(0o644)
    with victim.open("r+b") as file:
        file.seek(5 << 20)
        byte = file.read(1)
        file.seek(5 << 20)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(Corrupt, match="large0"):
        await artifact.download(tmp_path / "out")
    assert not (tmp_path / "out" / "large0").exists()
    healed = await log(tree)  # the parent was asked, and has marked the object
    assert snapshot(Path(await healed.download(tmp_path / "out2"))) == snapshot(tree)


# --- killed, cancelled, orphaned


def killing(monkeypatch: pytest.MonkeyPatch, kind: type, victims: int, after: int = 0) -> list[int]:
    """Kill so many workers with -9, each `after` so many messages of that kind were sent to it."""
    killed: list[int] = []
    sent: dict[Worker, int] = {}
    send = Worker.send

    def deadly(self: Worker, message: wire.ToWorker) -> None:
        send(self, message)
        if isinstance(message, kind) and self.pid is not None:
            sent[self] = sent.get(self, 0) + 1
            if sent[self] == after + 1 and len(killed) < victims:
                killed.append(self.pid)
                os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(Worker, "send", deadly)
    return killed


@pytest.mark.parametrize("victims", [1, 2])
@pytest.mark.parametrize(("kind", "after"), [(wire.Files, 0), (wire.Files, 1), (wire.Answer, 2)])
async def test_the_work_of_a_killed_worker_is_done_here(
    tree: Path,
    tmp_path: Path,
    started: list[Worker],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    victims: int,
    kind: type,
    after: int,
) -> None:
    killed = killing(monkeypatch, kind, victims, after)
    events: list[Progress] = []
    artifact = await log(tree, progress=events.append)
    assert len(killed) == victims
    assert "was killed by signal 9" in caplog.text
    files = snapshot(tree)
    assert events[-1].files == len(files)
    assert events[-1].bytes == sum(len(data) for data, _ in files.values())
    monkeypatch.setenv("ASYNCART_WORKERS", "1")
    assert snapshot(Path(await artifact.download(tmp_path / "out"))) == files


@pytest.mark.parametrize("victims", [1, 2])
@pytest.mark.parametrize("after", [0, 2])
async def test_the_files_of_a_killed_worker_are_fetched_here(
    tree: Path,
    tmp_path: Path,
    started: list[Worker],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    victims: int,
    after: int,
) -> None:
    # So many steps that the second worker gets a third one, however early the first one took its own.
    monkeypatch.setattr(choice, "STEP_FILES", 10)
    artifact = await log(tree)
    killed = killing(monkeypatch, wire.Step, victims, after)
    events: list[Progress] = []
    await artifact.download(tmp_path / "out", progress=events.append)
    assert len(killed) == victims
    assert "was killed by signal 9" in caplog.text
    files = snapshot(tree)
    found = snapshot(tmp_path / "out")
    left = [path for path in found if path.endswith(TEMP_SUFFIX)]  # as after any kill -9
    assert len(left) <= victims * 4
    assert {path: found[path] for path in found if path not in left} == files
    assert events[-1].files == len(files)
    assert events[-1].bytes == sum(len(data) for data, _ in files.values())


@pytest.mark.parametrize("how", ["asyncio", "timeout"])
async def test_cancelling_leaves_no_process_and_no_object(
    tree: Path, home: Path, started: list[Worker], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    reached = asyncio.Event()
    notice = _at(monkeypatch, wire.Answer, 3, reached.set)
    task = asyncio.get_running_loop().create_task(log(tree))
    await reached.wait()
    before = time.monotonic()
    if how == "asyncio":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await task
    assert time.monotonic() - before < 2
    assert notice
    assert [w.pid for w in started if w.pid and is_running(w.pid)] == []
    assert not [path for path in (home / "store").rglob(".*") if path.is_file()]
    assert (await log(tree)).version == "v0"


def _at(
    monkeypatch: pytest.MonkeyPatch, kind: type, count: int, call: Callable[[], object]
) -> list[int]:
    """Call it when so many messages of that kind were sent to workers."""
    seen: list[int] = []
    send = Worker.send

    def noticing(self: Worker, message: wire.ToWorker) -> None:
        send(self, message)
        if isinstance(message, kind):
            seen.append(1)
            if len(seen) == count:
                call()

    monkeypatch.setattr(Worker, "send", noticing)
    return seen


async def test_cancelling_a_download_leaves_no_process_and_no_temporary_file(
    tree: Path, tmp_path: Path, started: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "STEP_FILES", 50)
    artifact = await log(tree)
    reached = asyncio.Event()
    _at(monkeypatch, wire.Step, 5, reached.set)
    task = asyncio.get_running_loop().create_task(artifact.download(tmp_path / "out"))
    await reached.wait()
    before = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - before < 2
    assert [w.pid for w in started if w.pid and is_running(w.pid)] == []
    assert not list((tmp_path / "out").rglob(".*"))
    assert snapshot(Path(await artifact.download(tmp_path / "out"))) == snapshot(tree)


async def test_an_error_here_stops_the_workers(
    tree: Path, tmp_path: Path, started: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = await log(tree)

    def full(*arguments: object) -> None:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(downloading, "_save", full)
    with pytest.raises(Unavailable, match="the disk is full"):
        await artifact.download(tmp_path / "out")


SCRIPT = """
    import logging, sys
    import asyncart
    logging.basicConfig(level="DEBUG", format="%(name)s %(message)s")
    logging.getLogger("asyncio").setLevel("ERROR")

    def work(name):
        with asyncart.init(project="p") as run:
            artifact = asyncart.Artifact(name, "dataset")
            artifact.add_dir(sys.argv[1])
            run.log_artifact(artifact)
            artifact.download(sys.argv[2])
"""
PLAIN = 'work("plain")'
THREAD = """
import threading
thread = threading.Thread(target=work, args=("thread",))
thread.start()
thread.join()
"""
FORK = """
import os
work("before")
pid = os.fork()
if not pid:
    work("child")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize(
    ("text", "crews"),
    [(PLAIN, 2), (THREAD, 2), (FORK, 3)],  # the child's files are known: it only downloads
    ids=["no __main__ guard", "thread", "fork child"],
)
def test_it_works_from_any_program(tree: Path, tmp_path: Path, text: str, crews: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT) + text)
    out = tmp_path / "out"
    if "fork" in text:
        text = text.replace(
            'work("child")', 'import shutil; shutil.rmtree(sys.argv[2]); work("child")'
        )
        script.write_text(textwrap.dedent(SCRIPT) + text)
    done = subprocess.run(
        [sys.executable, script, tree, out], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("asyncart.workers 2 worker processes") >= crews, done.stderr
    assert "killed" not in done.stderr
    assert snapshot(out) == snapshot(tree)


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(each) for each in (task / "children").read_text().split()]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_workers_do_not_outlive_a_killed_parent(tree: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys, time
        import asyncart
        from asyncart.workers import wire
        from asyncart.workers.process import Worker

        send = Worker.send
        def slow(self, message):
            if isinstance(message, wire.Files):
                if os.fork() == 0:  # somebody else who holds the other end of the pipes open
                    time.sleep(20)
                    os._exit(0)
                print("busy", flush=True)
            if isinstance(message, wire.Answer):
                return  # it waits for ever
            send(self, message)
        Worker.send = slow
        with asyncart.init(project="p") as run:
            run.log_artifact(sys.argv[1], name="data", type="dataset")
        """)
    )
    with subprocess.Popen([sys.executable, script, tree], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"busy\n"
        assert parent.stdout.readline() == b"busy\n"
        pids = children(parent.pid)
        workers = [
            pid for pid in pids if b"workers.main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(workers) == 2
        parent.kill()
        try:
            until(lambda: not any(is_alive(pid) for pid in workers), 5)
        finally:
            for pid in pids:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Not a zombie: nobody reaps an orphan in some containers."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(is_so: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    waiting = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline
        waiting.wait(0.02)


async def test_small_transfers_start_no_process(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASYNCART_WORKERS")

    def refuse(self: Worker, opening: wire.Open) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(Worker, "__init__", refuse)
    artifact = await log(tree)
    await artifact.download(tmp_path / "out")


async def test_the_same_over_s3(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[Worker],
    aws_environment: S3Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "asyncart.workers")
    prefix = f"s3://{aws_environment.bucket}/workers-{os.urandom(4).hex()}"
    monkeypatch.setenv("ASYNCART_OBJECTS", prefix)
    artifact = await log(tree)
    assert len(started) == 2
    assert snapshot(Path(await artifact.download(tmp_path / "out"))) == snapshot(tree)
    assert len(started) == 4
    assert caplog.text == ""
