"""The command line as a user runs it: a process of its own, with a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "asyncart.cli"]
ROOT = Path(__file__).parents[2]


class Shell:
    """Runs commands in `folder`, with `home` as ASYNCART_HOME."""

    def __init__(self, base: Path) -> None:
        self.home = base / "home"
        self.folder = base / "work"
        self.folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ASYNCART_")}
        return kept | {
            "ASYNCART_HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.folder / ".config"),
            "PYTHONPATH": str(ROOT),
        }

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """The stdout of a command that must end with `code`."""
        done = self.run(*arguments)
        assert done.returncode == code, (done.args, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))

    def error(self, *arguments: str | Path, code: int) -> str:
        """The one line on stderr of a command that must fail, with nothing on stdout."""
        done = self.run(*arguments)
        assert done.returncode == code, (done.args, done.returncode, done.stdout, done.stderr)
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr.rstrip("\n")

    def run(self, *arguments: str | Path, **changes: Any) -> subprocess.CompletedProcess[str]:
        settings: dict[str, Any] = {
            "cwd": self.folder,
            "env": self.environment,
            "stdin": subprocess.DEVNULL,
            "capture_output": True,
            "text": True,
            "encoding": "utf-8",
            "timeout": 120,
        }
        return subprocess.run([*COMMAND, *map(str, arguments)], **settings | changes)

    def start(self, *arguments: str | Path, **changes: Any) -> subprocess.Popen[bytes]:
        settings: dict[str, Any] = {
            "cwd": self.folder,
            "env": self.environment,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        return subprocess.Popen([*COMMAND, *map(str, arguments)], **settings | changes)

    def write(self, path: str, content: bytes | str) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def temps(self) -> Iterator[Path]:
        """What an interrupted command may not leave behind."""
        for base in (self.home, self.folder):
            for file in base.rglob("*"):
                is_temp = file.name.startswith(".") and ".asyncart" in file.name
                is_open_journal = file.name.endswith("-journal") and file.stat().st_size > 0
                if is_temp or is_open_journal or file.name.endswith(".tmp"):
                    yield file
