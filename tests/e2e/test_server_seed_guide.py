"""The suite of the same name once more, at a server.

One thing is different there: who opens a `file://` reference says that it is trusted.
"""

from __future__ import annotations

from functools import partialmethod

import pytest
from server_environment import at_a_server, deployment
from test_seed_guide import *  # noqa: F403

import asyncart

__all__ = ["at_a_server", "deployment"]


@pytest.fixture(autouse=True)
def with_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    trusting = partialmethod(asyncart.Artifact.download, allow_file_references=True)
    monkeypatch.setattr(asyncart.Artifact, "download", trusting)
