"""A PostgreSQL server on 127.0.0.1, for benchmarks and tests: empty at first, gone afterwards.

Its programs are those of Debian, those on the PATH, or those of the PyPI package `pgserver`. It refuses root,
who starts it as nobody.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .measure import CommandFailed
from .peers import Missing
from .processes import free_port, running

DEBIAN = "/usr/lib/postgresql"
USER = "test"


class PostgresServer(NamedTuple):
    """A running server; whoever must not meet others makes a database of their own in it."""

    port: int
    pid: int

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str) -> None:
        """Run statements outside any transaction. Raises CalledProcessError."""
        arguments = [word for each in statements for word in ("-c", each)]
        command = [program("psql"), self.url(), "-q", "-v", "ON_ERROR_STOP=1", *arguments]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


@contextmanager
def running_postgres(parent: Path | None = None, *, syncs: bool = True) -> Iterator[PostgresServer]:
    """The server, with its data in a new folder below `parent` (or where temporary files go).

    With `syncs`, it waits for the disk as in production, which costs nothing where `parent` is a tmpfs.
    Raises Missing if it cannot be had.
    """
    initdb, postgres = program("initdb"), program("postgres")
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="asyncart-postgres-", dir=parent))
    try:
        if user is not None:
            shutil.chown(folder, user)
        initdb, postgres = (_readable_by(user, name, folder) for name in (initdb, postgres))
        data = str(folder / "data")
        made = subprocess.run(
            [initdb, "-D", data, "-U", USER, "-A", "trust", "--no-sync"],
            user=user,
            cwd=folder,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        if made.returncode:
            raise CommandFailed(f"{initdb} failed: {made.stderr.decode(errors='replace')[-2000:]}")
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": folder,
            "max_connections": 200,
            "fsync": "on" if syncs else "off",
        }
        command = [postgres, "-D", data]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        at_once = signal.SIGQUIT  # with its children
        with running(
            command, folder, lambda: _is_ready(port), user=user, ends_with=at_once
        ) as process:
            yield PostgresServer(port, process.pid)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def program(name: str) -> str:
    """Where a program of PostgreSQL lies: Debian keeps them out of the PATH, PyPI's are the last resort."""
    for folder in sorted(Path(DEBIAN).glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    bundle = _bundled()
    if found is None and bundle is not None:
        return str(bundle / "bin" / name)
    if found is None:
        raise Missing(f"PostgreSQL's {name}: apt-get install postgresql")
    return found


def _bundled() -> Path | None:
    """The programs inside the PyPI package `pgserver` (no wheels for every Python)."""
    package = importlib.util.find_spec("pgserver")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "pginstall"


def _readable_by(user: str | None, name: str, folder: Path) -> str:
    """The program, copied to a place that the other user may read if it is the bundled one."""
    bundle = _bundled()
    if user is None or bundle is None or not Path(name).is_relative_to(bundle):
        return name
    site = bundle.parent.parent  # its libraries lie beside the package
    copy = folder / "programs"
    if not copy.exists():
        shutil.copytree(bundle, copy / "pgserver" / "pginstall", symlinks=True)
        shutil.copytree(site / "pgserver.libs", copy / "pgserver.libs")
    return str(copy / Path(name).relative_to(site))


def _is_ready(port: int) -> bool:
    try:
        PostgresServer(port, 0).execute("SELECT 1")
    except subprocess.CalledProcessError:
        return False
    return True
