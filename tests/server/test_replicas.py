"""Two replicas behind one address: nobody notices when they come and go, whatever else breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
from services import PostgresServer, S3Server, running_replicas

from asyncart.wire import PREFIX
from bench.replicas import Cluster, broken_address
from bench.server.chaos import Load, check, run_load

STEADY = ("--drain-s", "1", "--sweep-s", "0")


class Pollers:
    """Threads that ask all the time, on connections that they keep, and repeat nothing."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self.answered = 0
        self.connections = 0
        self.failures: list[str] = []
        self._cluster = cluster
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> Pollers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        port = int(self._cluster.url.rpartition(":")[2])
        talk = HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"Authorization": f"Bearer {self._cluster.key}"}
        while not self._stop.is_set():
            if talk.sock is None:
                self.connections += 1
            try:
                talk.request("GET", f"{PREFIX}/me", headers=headers)
                answer = talk.getresponse()
                said = answer.read()
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {said!r}")
            except (OSError, HTTPException) as error:
                self.failures.append(repr(error))
                talk.close()
            self.answered += 1
            self._stop.wait(0.005)
        talk.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """For what clients keep."""
    folder = tmp_path / "clients"
    folder.mkdir()
    return folder


@contextmanager
def in_background(cluster: Cluster, load: Load, place: Path) -> Iterator[list[object]]:
    """Clients at work while the block runs; the list holds what came of it after the block."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(run_load(cluster, load, place)))
    thread.start()
    try:
        yield found
    finally:
        thread.join()


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, seaweedfs: S3Server
) -> Iterator[Cluster]:
    """Left running, though not the same processes all the time."""
    folder = tmp_path_factory.mktemp("replicas")
    with running_replicas(folder, postgres, seaweedfs, *STEADY) as found:
        yield found


def test_a_rolling_restart_fails_no_request(cluster: Cluster, place: Path) -> None:
    """Not even one that is asked once and never again; and writers notice nothing."""
    load = Load(processes=1, clients=4, logs=0, collections=2, seconds=5.0, project="rolling")
    with in_background(cluster, load, place) as found, Pollers(cluster, 3) as pollers:
        time.sleep(0.5)
        codes = cluster.roll()
    (outcome,) = found
    assert codes == [0, 0]
    assert pollers.failures == []
    assert pollers.answered > 100
    assert pollers.connections >= 3 + 2  # those that were told to come back elsewhere
    assert outcome.answer.errors == []
    assert len(outcome.answer.logged) > 4
    assert check(cluster, load, outcome) == []


def test_chaos(cluster: Cluster, tmp_path: Path, place: Path) -> None:
    """Clients log and look while requests are broken and replicas are killed: nothing is lost, nothing is
    there twice, no number is missing, and all that was seen of the aliases could have been."""
    load = Load(processes=2, clients=6, logs=3, collections=4, project="chaos")
    with broken_address(cluster, tmp_path / "broken", 0.04) as broken:
        outcome = run_load(broken, load, place, kill_every_s=1.5)
        assert check(broken, load, outcome) == []
        assert outcome.kills
        assert broken.faults()
        assert len(outcome.answer.seen) > 2 * len(outcome.answer.logged)
