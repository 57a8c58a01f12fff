"""The linter, the formatter and the type checker find nothing: the test command is the only gate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKS = {
    "ruff check": ["ruff", "check", "--no-cache", "--output-format=concise", "."],
    "ruff format": ["ruff", "format", "--no-cache", "--check", "."],
    "mypy": ["mypy"],
}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.mark.parametrize("name", list(CHECKS))
def test_nothing_is_found(name: str) -> None:
    done = run(*CHECKS[name])
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_the_checks_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import os\ndef f(x):\n  asyncio.create_task( x)\n")
    config = str(ROOT / "pyproject.toml")
    assert "F401" in run("ruff", "check", "--no-cache", "--config", config, str(bad)).stdout
    assert (
        run("ruff", "format", "--no-cache", "--check", "--config", config, str(bad)).returncode == 1
    )
    assert "untyped" in run("mypy", "--strict", "--cache-dir", str(tmp_path), str(bad)).stdout
