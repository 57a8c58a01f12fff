"""The suite of the same name once more, at a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_api_reading as suite
from s3_environment import PLAIN, damage_below, keys_below
from server_environment import at_a_server, deployment
from services import S3Server
from test_api_reading import *  # noqa: F403

__all__ = ["at_a_server", "deployment"]


@pytest.fixture(autouse=True)
def damage_behind_the_server(
    deployment: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What the suite does to files of a local store is done to those behind the server."""
    if deployment == "folder":
        monkeypatch.setattr(suite, "damage", _damage_in_the_folder)
        yield
        return
    url = request.getfixturevalue("two_replicas").objects
    server: S3Server = request.getfixturevalue("seaweedfs")
    with server.client(**PLAIN) as client:
        monkeypatch.setattr(suite, "damage", damage_below(client, url, keys_below(client, url)))
        yield


_in_home = suite.damage


def _damage_in_the_folder(tmp_path: Path, before: bytes, after: bytes) -> None:
    shutil.rmtree(tmp_path / "home" / "cache", ignore_errors=True)
    (tmp_path / "home" / "store").symlink_to(tmp_path / "server-home" / "server" / "store")
    try:
        _in_home(tmp_path, before, after)
    finally:
        (tmp_path / "home" / "store").unlink()
