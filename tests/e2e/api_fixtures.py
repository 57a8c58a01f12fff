"""What the tests of the public API share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from material import read_tree as found
from material import write_tree as tree

import asyncart
import asyncart.aio

__all__ = ["face", "found", "here", "tree", "two_entities"]


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
