"""kill -9, of the server and of a client, anywhere: one version, nothing lost, and the next attempt continues."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from asyncart import aio
from bench.replicas import Replica, metrics_of, running_replica
from bench.server.chaos import client_environment

MIB = 1 << 20
PATIENCE_S = 30.0


class Tripwire:
    """Passes connections on to the server, and kills and restarts it at the `at`-th piece that comes.

    With `after`, the server has carried that request out and answered, and the answer is lost with it.
    """

    def __init__(self, replica: Replica, *, at: int, after: bool) -> None:
        self._replica = replica
        self._at = at
        self._after = after
        self._seen = 0
        self._has_killed = False
        self._back = anyio.Event()
        self._back.set()

    @property
    def has_tripped(self) -> bool:
        return self._seen >= self._at

    @contextlib.asynccontextmanager
    async def listening(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with anyio.fail_after(PATIENCE_S):
                await self._back.wait()
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._back.wait()
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._replica.port)
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._up, reader, up_writer, group.cancel_scope)
                    group.start_soon(self._down, up_reader, writer, group.cancel_scope)
            finally:
                up_writer.close()
        except OSError:
            pass
        finally:
            writer.close()

    async def _up(self, reader, up_writer, scope: anyio.CancelScope) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self._seen += 1
                if self._seen == self._at and not self._after:
                    await self._restart()
                    break
                up_writer.write(data)
        scope.cancel()

    async def _down(self, up_reader, writer, scope: anyio.CancelScope) -> None:
        with contextlib.suppress(OSError):
            while data := await up_reader.read(65536):
                if self._seen >= self._at and self._after and not self._has_killed:
                    await self._restart()
                    break
                writer.write(data)
        scope.cancel()

    async def _restart(self) -> None:
        self._has_killed = True
        self._back = anyio.Event()
        self._replica.kill()
        self._replica.launch()  # on this thread: the process ends with the thread that started it
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._replica.wait_started)
        self._back.set()


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with running_replica(tmp_path_factory.mktemp("replica"), "--sweep-s", "0") as found:
        yield found


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_server_killed_at_any_request(
    after: bool, replica: Replica, tmp_path: Path
) -> None:
    """Before it hears of the request, or when it has carried it out: the log succeeds, once.

    Each point costs a restart, so that these are every third one; ASYNCART_TEST_ALL=1 takes all.
    """
    source = tmp_path / "source"
    source.mkdir()
    step = 1 if os.environ.get("ASYNCART_TEST_ALL") else 3
    for at in itertools.count(2 if after else 1, step):
        for index in range(3):
            (source / f"{index}.bin").write_bytes(os.urandom(3000))
        wire = Tripwire(replica, at=at, after=after)
        async with wire.listening() as url:
            name = f"data-{after}-{at}"
            where = {"server": url, "api_key": replica.key, "home": tmp_path / f"home{at}"}
            async with aio.init(project="killed", **where) as run:
                artifact = aio.Artifact(name, "dataset")
                artifact.add_dir(source)
                await run.log_artifact(artifact, aliases=["best"])
            assert artifact.version == "v0"
            async with aio.Api(project="killed", **where) as api:
                (found,) = await api.artifacts(name)
                assert set(found.aliases) == {"latest", "best"}
                target = Path(await found.download(root=tmp_path / f"target{at}"))
        for path in source.iterdir():
            assert (target / path.name).read_bytes() == path.read_bytes()
        if not wire.has_tripped:
            break
    assert at > 6  # there were requests to be killed at


def received_bytes(replica: Replica) -> int:
    return int(metrics_of(replica.url)["asyncart_received_bytes_total"])


def test_a_client_killed_while_it_uploads(replica: Replica, tmp_path: Path) -> None:
    """The next attempt sends what is missing, and not again what the server has."""
    size = 48 * MIB
    file = tmp_path / "large.bin"
    file.write_bytes(os.urandom(size))
    environment = client_environment(replica.url, replica.key, tmp_path / "home")
    put = [
        sys.executable,
        "-m",
        "asyncart",
        "put",
        str(file),
        "--name",
        "large",
        "--project",
        "killed",
    ]
    with subprocess.Popen(
        [*put, "--limit-rate", "16M"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as first:
        before = received_bytes(replica)
        deadline = time.monotonic() + PATIENCE_S
        while received_bytes(replica) - before < 24 * MIB:
            assert first.poll() is None, "it ended too early to be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    before = received_bytes(replica)
    done = subprocess.run(
        [*put, "--json"], env=environment, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "v0"
    sent = received_bytes(replica) - before
    assert size - 32 * MIB <= sent <= size - 8 * MIB
    got = subprocess.run(
        [sys.executable, "-m", "asyncart", "get", "large", "target", "--project", "killed"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert got.returncode == 0, got.stderr
    assert (tmp_path / "target" / "large.bin").read_bytes() == file.read_bytes()
