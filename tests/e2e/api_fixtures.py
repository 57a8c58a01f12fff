"""What the tests of the public API share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import asyncart
import asyncart.aio


@pytest.fixture(params=["blocking", "async"])
def face(request: pytest.FixtureRequest) -> Any:
    """`asyncart` and `asyncart.aio`: the same test for both."""
    return asyncart if request.param == "blocking" else asyncart.aio


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with a home of its own."""
    monkeypatch.setenv("ASYNCART_HOME", str(tmp_path / "home"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def two_entities() -> tuple[str, str]:
    """Whose names a test may use besides the default's; where entities have to be made first, they are."""
    return "me", "you"


def tree(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Write these files below the folder."""
    for path, content in files.items():
        local = folder / path
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def found(folder: Path | str) -> dict[str, bytes]:
    """The files below the folder."""
    root = Path(folder)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
