"""A PostgreSQL server on 127.0.0.1 for the server suite: durable as in production (fsync is on), gone after."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .measure import CommandFailed
from .peers import Missing
from .replicas import die_with_parent, free_port

DEBIAN = "/usr/lib/postgresql"
READY_S = 60.0


@contextmanager
def postgres(parent: Path) -> Iterator[str]:
    """The URL of an empty database. It refuses root, who starts it as nobody. Raises Missing."""
    initdb, server = _program("initdb"), _program("postgres")
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="asyncart-bench-postgres-", dir=parent))
    try:
        if user is not None:
            shutil.chown(folder, user)
        subprocess.run(
            [initdb, "-D", str(folder / "data"), "-U", "bench", "-A", "trust", "--no-sync"],
            user=user,
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": folder,
            "max_connections": 200,
        }
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (
            open(folder / "log", "wb") as log,
            subprocess.Popen(
                [server, "-D", str(folder / "data"), *arguments],
                user=user,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            ) as process,
        ):
            try:
                _wait_ready(port, process, folder / "log")
                yield f"postgresql://bench@127.0.0.1:{port}/postgres"
            finally:
                process.send_signal(signal.SIGQUIT)  # at once, with its children
                process.wait(10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    where = ["-h", "127.0.0.1", "-p", str(port), "-U", "bench", "-d", "postgres"]
    deadline = time.monotonic() + READY_S
    while True:
        asked = subprocess.run(
            [_program("psql"), *where, "-c", "SELECT 1"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if asked.returncode == 0:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise CommandFailed(
                f"PostgreSQL is not ready: {log.read_text(errors='replace')[-2000:]}"
            )
        time.sleep(0.05)


def _program(name: str) -> str:
    for folder in sorted(Path(DEBIAN).glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise Missing(f"PostgreSQL's {name} is missing: apt-get install postgresql")
    return found
