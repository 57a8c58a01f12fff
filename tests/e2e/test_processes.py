"""Processes and threads: what ends, forks, spawns or shares a run must neither hang nor lose a version.

Each program is a real one, run as users would run it; most end in the way that is being tested.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import asyncart
from asyncart.model import RunInfo, RunState

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
starts_threads_at_exit = pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 3), reason="these Pythons start no thread at exit"
)

BEGIN = """
import os, sys, warnings
# Python >= 3.12 warns of any fork beside a thread, which is what is tested here
warnings.filterwarnings("ignore", message=".*multi-threaded.*", category=DeprecationWarning)
import asyncart

def log(run, name, text, **more):
    artifact = asyncart.Artifact(name, type="dataset")
    with artifact.new_file("a.txt") as file:
        file.write(text)
    return run.log_artifact(artifact, **more)

def read(artifact):
    return artifact.get_entry("a.txt").read().decode()

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"
"""


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCART_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def run_program(
    body: str, *arguments: str, fails: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the program in a folder of its own; it must say nothing on stderr unless it `fails`."""
    script = Path("program.py")
    script.write_text(BEGIN + textwrap.dedent(body))
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if not fails:
        assert (done.returncode, done.stderr) == (0, "")
    return done


def run_of(name: str) -> RunInfo:
    with asyncart.Api(project="p") as api:
        return api.artifact(name).logged_by()[0]


# --- the end of a program ----------------------------------------------------------------------


@starts_threads_at_exit
def test_a_run_that_nobody_finishes_is_finished_at_exit() -> None:
    run_program("""
    run = asyncart.init("p")
    print(log(run, "a", "x").version)
    """)
    info = run_of("a")
    assert info.state is RunState.FINISHED
    assert info.finished_at is not None


@starts_threads_at_exit
def test_a_program_that_dies_of_an_error_leaves_a_failed_run() -> None:
    done = run_program(
        """
        run = asyncart.init("p")
        log(run, "a", "x")
        raise LookupError("of the user")
        """,
        fails=True,
    )
    assert "LookupError: of the user" in done.stderr
    assert run_of("a").state is RunState.FAILED


@starts_threads_at_exit
def test_what_is_logged_in_the_background_is_there_when_the_program_has_ended() -> None:
    run_program("""
    run = asyncart.init("p")
    artifact = asyncart.Artifact("a", type="dataset")
    with artifact.new_file("a.txt") as file:
        file.write("x")
    run.log_artifact_in_background(artifact, aliases=["best"])
    """)
    assert run_of("a:best").state is RunState.FINISHED


@starts_threads_at_exit
def test_a_failure_in_the_background_is_told_at_exit_when_nobody_waited() -> None:
    done = run_program(
        """
        run = asyncart.init("p")
        log(run, "a", "x")
        artifact = asyncart.Artifact("a", type="another-type")
        with artifact.new_file("a.txt") as file:
            file.write("y")
        run.log_artifact_in_background(artifact)
        """,
        fails=True,
    )
    assert "another-type" in done.stderr
    assert run_of("a").state is RunState.FAILED


# --- fork --------------------------------------------------------------------------------------


@posix
def test_a_forked_child_goes_on_with_everything_its_parent_had() -> None:
    """The parent's run, artifact and Api work in the child, and the parent goes on afterwards."""
    done = run_program("""
    run = asyncart.init("p")
    api = asyncart.Api(project="p")
    first = log(run, "a", "parent")
    assert read(first) == "parent"

    def work():
        assert read(first) == "parent"
        assert run.use_artifact("a:v0") == first
        assert log(run, "a", "child").version == "v1"
        assert api.artifact("a").version == "v1"
        assert os.path.isfile(os.path.join(first.download("child-folder"), "a.txt"))
        run.finish()  # of no effect: the run is the parent's

    in_child(work)
    assert not run.is_finished
    assert read(run.use_artifact("a:v1")) == "child"
    assert log(run, "a", "parent again").version == "v2"
    print([a.version for a in run.logged_artifacts()])
    run.finish()
    """)
    assert done.stdout.strip() == "['v0', 'v1', 'v2']"


@posix
@starts_threads_at_exit
def test_a_run_of_a_forked_child_is_finished_when_the_child_exits() -> None:
    """... and the parent's runs are left to the parent, whatever the child's end."""
    run_program("""
    run = asyncart.init("p")
    log(run, "parents", "x")
    pid = os.fork()
    if pid == 0:
        log(asyncart.init("p"), "childs", "y")
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert run.use_artifact("childs").logged_by()[0].state == "finished"
    assert run.use_artifact("parents").logged_by()[0].state == "running"
    run.finish()
    """)


@posix
def test_a_child_forked_while_its_parent_is_logging_is_not_stuck() -> None:
    """Whatever locks other threads hold at the fork, the child works; the parent's versions arrive."""
    done = run_program("""
    import threading
    run = asyncart.init("p")
    log(run, "warm", "x")
    is_over = threading.Event()

    def keep_logging():
        for number in range(20):
            log(run, "busy", str(number))
        is_over.set()

    thread = threading.Thread(target=keep_logging)
    thread.start()
    forks = 0
    while forks < 4:
        in_child(lambda: log(run, f"child-{forks}", "x"))
        forks += 1
    thread.join()
    print([run.use_artifact(f"child-{n}").version for n in range(4)] == ["v0"] * 4)
    print(run.use_artifact("busy").version)
    run.finish()
    """)
    assert done.stdout.split() == ["True", "v19"]


@posix
def test_fork_within_with_leaves_the_run_to_the_parent() -> None:
    done = run_program("""
    with asyncart.init("p") as run:
        log(run, "a", "x")
        pid = os.fork()
        if pid == 0:
            sys.exit(0)  # leaves the block, in the child
        assert os.waitpid(pid, 0)[1] == 0
        assert not run.is_finished
        print(log(run, "a", "y").logged_by()[0].state)
    print(run.is_finished)
    """)
    assert done.stdout.split() == ["running", "True"]


@starts_threads_at_exit
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_log_and_read_after_use_in_the_parent(method: str) -> None:
    """As data loaders do: the parent has used asyncart, then workers of any kind use it as well."""
    done = run_program(
        """
        import multiprocessing

        def work(number):
            run = asyncart.init("p", job_type="worker")
            data = run.use_artifact("data:latest")
            text = read(data)
            return text, log(run, "results", f"of worker {number}").version

        if __name__ == "__main__":
            run = asyncart.init("p")
            log(run, "data", "shared")
            context = multiprocessing.get_context(sys.argv[1])
            with context.Pool(2) as pool:
                got = pool.map(work, range(4), chunksize=1)
                pool.close()
                pool.join()
            assert {text for text, _ in got} == {"shared"}
            print(sorted(version for _, version in got))
            assert read(run.use_artifact("data")) == "shared"
            print(len(run.use_artifact("data").used_by()))
            run.finish()
        """,
        method,
    )
    assert done.stdout.split("\n")[:2] == [str([f"v{n}" for n in range(4)]), "5"]


@posix
@starts_threads_at_exit
def test_an_async_program_forks_workers_that_use_the_blocking_names() -> None:
    done = run_program("""
    import asyncio
    import asyncart.aio

    async def main():
        async with asyncart.aio.init("p") as run:
            artifact = asyncart.aio.Artifact("a", "dataset")
            async with artifact.new_file("a.txt") as file:
                await file.write("x")
            await run.log_artifact(artifact)
            await asyncio.to_thread(in_child, lambda: print(read(asyncart.Api(project="p").artifact("a")), flush=True))
            print((await (await run.use_artifact("a")).get_entry("a.txt")).size)

    asyncio.run(main())
    """)
    assert done.stdout.split() == ["x", "1"]


# --- several at once ---------------------------------------------------------------------------


def test_sixteen_threads_log_and_download_through_one_run() -> None:
    """Versions are numbered without a gap, and every download is its own version's."""
    from concurrent.futures import ThreadPoolExecutor

    with asyncart.init("p") as run, ThreadPoolExecutor(16) as pool:

        def work(number: int) -> str:
            artifact = asyncart.Artifact("shared", type="dataset")
            with artifact.new_file("a.txt") as file:
                file.write(f"thread {number}")
            version = run.log_artifact(artifact, aliases=[f"thread-{number}"]).version
            folder = run.use_artifact(f"shared:thread-{number}").download(f"out-{number}")
            assert Path(folder, "a.txt").read_text() == f"thread {number}"
            return version

        versions = list(pool.map(work, range(32)))
        assert sorted(versions, key=lambda v: int(v[1:])) == [f"v{n}" for n in range(32)]
        assert len(run.logged_artifacts()) == len(run.used_artifacts()) == 32


def test_sixteen_threads_log_the_same_content_and_make_one_version() -> None:
    from concurrent.futures import ThreadPoolExecutor

    Path("data.bin").write_bytes(os.urandom(1_000_000))
    with asyncart.init("p") as run, ThreadPoolExecutor(16) as pool:

        def work(_: int) -> str:
            artifact = asyncart.Artifact("same", type="dataset")
            artifact.add_file("data.bin")
            return run.log_artifact(artifact).version

        assert set(pool.map(work, range(16))) == {"v0"}


def test_sixteen_threads_use_one_draft_and_it_is_logged_once() -> None:
    """`use_artifact` of a draft is idempotent even when the very same object is used at once."""
    from concurrent.futures import ThreadPoolExecutor

    with asyncart.init("p") as run, ThreadPoolExecutor(16) as pool:
        draft = asyncart.Artifact("one", type="dataset")
        with draft.new_file("a.txt") as file:
            file.write("x")
        assert {a.version for a in pool.map(run.use_artifact, [draft] * 16)} == {"v0"}
        assert [a.name for a in run.used_artifacts()] == ["one:v0"]


def test_threads_download_into_one_folder_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    for number in range(50):
        Path("data").mkdir(exist_ok=True)
        Path("data", f"{number}.bin").write_bytes(bytes([number]) * 1000)
    with asyncart.init("p") as run, ThreadPoolExecutor(8) as pool:
        artifact = run.log_artifact("data", name="data", type="dataset")
        assert set(pool.map(lambda _: artifact.download("same"), range(8))) == {"same"}
        assert artifact.verify("same").is_ok


def test_processes_log_into_one_collection_at_once() -> None:
    """Numbers are contiguous over all of them, and `latest` is one of the last."""
    program = """
    run = asyncart.init("p")
    for number in range(4):
        log(run, "shared", f"{sys.argv[1]} {number}")
    run.finish()
    """
    Path("program.py").write_text(BEGIN + textwrap.dedent(program))
    workers = [
        subprocess.Popen(
            [sys.executable, "program.py", str(worker)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
        )
        for worker in range(3)
    ]
    for worker in workers:
        assert worker.communicate(timeout=120)[1] == b""
    with asyncart.Api(project="p") as api:
        assert [a.version for a in api.artifacts("shared")] == [
            f"v{n}" for n in reversed(range(12))
        ]
        assert api.artifact("shared").get_entry("a.txt").read().endswith(b" 3")


async def test_blocking_calls_work_inside_a_running_loop() -> None:
    """As in Jupyter, whose cells run inside an event loop."""
    with asyncart.init("p") as run:
        artifact = asyncart.Artifact("a", type="dataset")
        with artifact.new_file("a.txt") as file:
            file.write("x")
        run.log_artifact(artifact)
        assert Path(artifact.download("out"), "a.txt").read_text() == "x"
    assert artifact.logged_by()[0].state is RunState.FINISHED
