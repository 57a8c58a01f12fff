"""Real servers for tests, on 127.0.0.1 only: started by the first test that needs them, killed at the end.

They are those of the benchmarks (see `bench.processes`), as fixtures (imported by `conftest`). And small
disks, to be filled. What a machine cannot provide skips the test, and in CI fails it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

from bench import servers
from bench.bucket import S3Server
from bench.peers import Missing
from bench.postgres import PostgresServer, running_postgres
from bench.processes import READY_S
from bench.replicas import Cluster, Replica, running_cluster, running_replica

Service = TypeVar("Service")


def missing(service: str) -> NoReturn:
    """Skip the test, and say so; in CI nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing: {service}")
    pytest.skip(f"missing: {service}")


@contextmanager
def provided(service: AbstractContextManager[Service]) -> Iterator[Service]:
    """The running service, or `missing` it."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(service)
        except Missing as error:
            missing(str(error))
        yield found


@contextmanager
def server_in_thread(**options: Any) -> Iterator[str]:
    """An `asyncart server` inside this process, on an event loop of its own; gives its URL.

    For a test that wants a fresh one: 50 ms, where a process takes a second. `options` are those of
    `ServerOptions`; without authentication, unless they say otherwise.
    """
    from asyncart.server.drain import Drain
    from asyncart.server.options import ServerOptions
    from asyncart.server.serve import Started, serve

    wanted = {"port": 0, "no_auth": True, "drain_s": 0.0, "stop_s": 5.0, "sweep_s": 0.0, **options}
    is_up = threading.Event()
    found: list[Started] = []
    ends: list[Callable[[], None]] = []
    errors: list[BaseException] = []

    def started(what: Started) -> None:
        found.append(what)
        is_up.set()

    async def run() -> None:
        drain, loop = Drain(), asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(drain.request) and None)
        await serve(ServerOptions(**wanted), started=started, drain=drain)

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            errors.append(error)
        finally:
            is_up.set()

    thread = threading.Thread(target=main, name="asyncart server")
    thread.start()
    try:
        assert is_up.wait(READY_S)
        if errors:
            raise errors[0]
        yield found[0].url
    finally:
        for end in ends:
            if thread.is_alive():
                end()
        thread.join(READY_S)
    assert not thread.is_alive(), "the server did not end"
    if errors:
        raise errors[0]


@contextmanager
def mounted_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of so many bytes at `folder`. Whatever is still open on it at the end is a failure."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        missing("a mount command, for a disk that is full")
    if done.returncode:
        missing(f"a small disk, which takes root: {done.stderr.decode().strip()}")
    yield folder
    gc.collect()  # the traceback of an error that a test caught may hold an open file
    still_open = [path for path in open_paths() if path.startswith(f"{folder}/")]
    subprocess.run(["umount", "-l", str(folder)], check=True)  # lazily: others may look at it
    assert not still_open, still_open


def open_paths() -> list[str]:
    """What this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return found


@pytest.fixture
def disk_1_mib(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", 1 << 20) as disk:
        yield disk


@pytest.fixture
def disk_2_mib(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", 2 << 20) as disk:
        yield disk


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for all tests of the session, started by the first one that wants it."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    with provided(servers.seaweedfs(folder, None)) as server:
        yield server


@pytest.fixture
def aws_environment(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The environment of a user of that server; ASYNCART_TEST_BUCKET names the bucket."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in seaweedfs.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ASYNCART_TEST_BUCKET", seaweedfs.bucket)
    return seaweedfs


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL server for all tests of the session, started by the first one that wants it."""
    with provided(running_postgres(syncs=False)) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A new, empty database."""
    name = f"test_{os.urandom(6).hex()}"
    postgres.execute(f"CREATE DATABASE {name}")
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def asyncart_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """One server process with an SQLite file and a folder; `url`, and `key` of its administrator."""
    with running_replica(tmp_path_factory.mktemp("server"), "--sweep-s", "0") as replica:
        yield replica


@pytest.fixture
def fresh_server(tmp_path: Path) -> Iterator[str]:
    """The URL of a server in this process, with an SQLite file and a folder, without authentication."""
    with server_in_thread(home=str(tmp_path / "server-home")) as url:
        yield url


@contextmanager
def running_replicas(
    folder: Path,
    postgres: PostgresServer,
    seaweedfs: S3Server,
    *options: str,
    fault_rate: float = 0.0,
) -> Iterator[Cluster]:
    """Two servers on a new database and a new prefix of the bucket, behind one address."""
    name = f"test_{os.urandom(6).hex()}"
    postgres.execute(f"CREATE DATABASE {name}")
    objects = f"s3://{seaweedfs.bucket}/{name}"
    where = ["--catalog", postgres.url(name), "--objects", objects]
    try:
        with running_cluster(
            folder,
            *where,
            *options,
            environment=seaweedfs.environment(),
            fault_rate=fault_rate,
        ) as cluster:
            cluster.objects = objects
            yield cluster
    finally:
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def two_replicas(
    postgres: PostgresServer, seaweedfs: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two server processes on PostgreSQL and SeaweedFS behind one address: `url`, `key`.

    For tests that leave them running; one that ends them takes `running_replicas`.
    """
    folder = tmp_path_factory.mktemp("replicas")
    with running_replicas(folder, postgres, seaweedfs, "--drain-s", "0.5") as cluster:
        yield cluster
