"""README's snippets do what README says."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
# `server` runs until it is ended, and `login` wants one: tests/server runs those
COMMANDS = re.findall(r"^    asyncart (?!server|login)(\S[^#\n]*)", README, flags=re.MULTILINE)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `data/` in it, as the working directory, and a home of its own."""
    monkeypatch.setenv("ASYNCART_HOME", str(tmp_path / "home"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rides.csv").write_bytes(os.urandom(5000))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 2
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_brings_the_logged_file_back(project: Path, number: int) -> None:
    code = compile(SNIPPETS[number], "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, object] = {}
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)
    fetched = Path(str(names["folder"])) / "rides.csv"
    assert fetched.read_bytes() == (project / "data" / "rides.csv").read_bytes()


def test_the_commands_run_one_after_the_other(project: Path) -> None:
    """`diff` ends with 1 when the versions differ, as diff does; the others end with 0."""
    for number, command in enumerate(COMMANDS):
        done = subprocess.run(
            [sys.executable, "-m", "asyncart", *command.split()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        expected = 1 if command.startswith("diff") else 0
        assert done.returncode == expected, (command, done.stderr)
        if number == 0:  # "when something in it has changed"
            (project / "data" / "rides.csv").write_bytes(b"changed")
    assert (project / "data-again" / "rides.csv").read_bytes() == b"changed"
