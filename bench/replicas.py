"""Real `asyncart server` processes on 127.0.0.1, alone or several behind one address.

Whatever happens, they end with whoever started them. What they log stays in the folder that they were
given, for a test that failed.
"""

from __future__ import annotations

import json
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .processes import (
    READY_S,
    REPOSITORY,
    NotStarted,
    clean_environment,
    free_port,
    listens,
    start,
    wait_until,
)

END_S = 90.0  # an orderly end: the grace period and the longest request
PROBES = ("healthz", "readyz", "metrics")


class Replica:
    """One server process with a port of its own, which may be ended and started again."""

    def __init__(
        self,
        folder: Path,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        name: str = "server",
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{name}.log"
        self.key: str | None = None  # of the first administrator, if this one made him
        self._options = list(options)
        self._environment = {
            **clean_environment(),
            "ASYNCART_HOME": str(folder / "home"),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Return when it takes requests."""
        self.launch()
        self.wait_started()

    def launch(self) -> None:
        command = [sys.executable, "-m", "asyncart", "--json", "server", "--port", str(self.port)]
        with open(self.log, "ab") as log:
            self._process = start(
                [*command, *self._options],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def wait_started(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], READY_S)
        line = process.stdout.readline() if ready else b""
        process.stdout.close()
        if not line:
            self.kill()
            raise NotStarted(f"{self.url} did not start:\n{self.said()[-3000:]}")
        self.key = json.loads(line)["admin_key"] or self.key

    def terminate(self) -> int:
        """Ask it to end, wait until it has, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        assert self._process is not None
        try:
            return self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def send_signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """At once, without a chance to do anything. Nothing, if it is gone already."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            if self._process.stdout is not None:
                self._process.stdout.close()

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Cluster:
    """Replicas that share everything, and the one address in front of them."""

    def __init__(self, url: str, replicas: Sequence[Replica], faults: Path) -> None:
        self.url = url
        self.replicas = list(replicas)
        self.objects = ""  # the URL of their objects, if who started them says so
        self._faults = faults

    @property
    def key(self) -> str | None:
        return next((each.key for each in self.replicas if each.key), None)

    def faults(self) -> list[str]:
        """What the balancer broke on purpose so far."""
        return self._faults.read_text().split()

    def roll(self) -> list[int]:
        """Restart one after the other, orderly; the exit codes."""
        codes = []
        for replica in self.replicas:
            codes.append(replica.terminate())
            replica.start()
            wait_ready(replica.url)
            time.sleep(0.3)  # until the balancer, who asks every 0.1 s, has seen it
        return codes


@contextmanager
def running_replica(
    folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Replica]:
    """One server, ready. Without options: an SQLite file and a folder for objects, below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    replica = Replica(folder, options, environment)
    try:
        replica.start()
        yield replica
    finally:
        replica.kill()


@contextmanager
def running_cluster(
    folder: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    count: int = 2,
    fault_rate: float = 0.0,
) -> Iterator[Cluster]:
    """Several servers with the same options (catalog, objects...) behind one address, ready.

    With a `fault_rate`, the address breaks that share of the requests (see `balancer`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    replicas = [
        Replica(folder, options, environment, name=f"replica{index}") for index in range(count)
    ]
    with ExitStack() as stack:
        for replica in replicas:
            stack.callback(replica.kill)
            replica.start()  # one after the other: the first one makes the tables and the key
        for replica in replicas:
            wait_ready(replica.url)
        ports = [replica.port for replica in replicas]
        url = stack.enter_context(_balancer(ports, fault_rate, folder / "faults"))
        yield Cluster(url, replicas, folder / "faults")


@contextmanager
def broken_address(cluster: Cluster, folder: Path, fault_rate: float) -> Iterator[Cluster]:
    """The same replicas, behind another address that breaks that share of the requests."""
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "faults"
    ports = [replica.port for replica in cluster.replicas]
    with _balancer(ports, fault_rate, told) as url:
        yield Cluster(url, cluster.replicas, told)


@contextmanager
def _balancer(ports: Sequence[int], fault_rate: float, told: Path) -> Iterator[str]:
    port = free_port()
    numbers = map(str, (port, *ports))
    with (
        open(told, "wb") as faults,
        start(
            [sys.executable, "-m", "bench.balancer", *numbers, f"--faults={fault_rate}"],
            cwd=REPOSITORY,
            stdout=faults,
        ) as process,
    ):
        try:
            wait_until(lambda: listens(port), lambda: f"nobody listens on port {port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait(10)


def wait_ready(url: str) -> None:
    wait_until(lambda: is_ready(url), lambda: f"{url} is not ready")


def is_ready(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/readyz", timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False
    return True


def metrics_of(url: str) -> dict[str, float]:
    """What a replica has counted so far: series -> value."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return read_metrics(answer.read().decode())


def read_metrics(text: str) -> dict[str, float]:
    samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, _, value in samples}


def requests_of(url: str) -> int:
    """How many requests a replica has answered so far, those about its health apart."""
    found = (
        (re.fullmatch(r'asyncart_requests_total\{route="([^"]*)".*', series), value)
        for series, value in metrics_of(url).items()
    )
    return sum(int(value) for match, value in found if match and match[1] not in PROBES)
