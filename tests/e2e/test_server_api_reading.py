"""The suite of the same name once more, at a server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import test_api_reading as suite
from s3_environment import PLAIN, damage_below, keys_below
from server_environment import at_a_server, deployment
from services import S3Server
from test_api_reading import *  # noqa: F403

from bench.postgres import PostgresServer

__all__ = ["at_a_server", "deployment"]


@pytest.fixture(autouse=True)
def damage_behind_the_server(
    deployment: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What the suite does to files of a local store is done to those behind the server."""
    if deployment == "folder":
        monkeypatch.setattr(suite, "damage", _damage_in_the_folder)
        monkeypatch.setattr(suite, "forge", _forge_in_the_folder)
        yield
        return
    url = request.getfixturevalue("two_replicas").objects
    server: S3Server = request.getfixturevalue("seaweedfs")
    monkeypatch.setattr(suite, "forge", _forging_in(request.getfixturevalue("postgres"), url))
    with server.client(**PLAIN) as client:
        monkeypatch.setattr(suite, "damage", damage_below(client, url, keys_below(client, url)))
        yield


_in_home = suite.damage
_forge_in_home = suite.forge


def _damage_in_the_folder(tmp_path: Path, before: bytes, after: bytes) -> None:
    shutil.rmtree(tmp_path / "home" / "cache", ignore_errors=True)
    (tmp_path / "home" / "store").symlink_to(tmp_path / "server-home" / "server" / "store")
    try:
        _in_home(tmp_path, before, after)
    finally:
        (tmp_path / "home" / "store").unlink()


def _forge_in_the_folder(tmp_path: Path, digest: str, other: str) -> None:
    server = tmp_path / "as-home"
    server.mkdir()
    (server / "home").symlink_to(tmp_path / "server-home" / "server")
    _forge_in_home(server, digest, other)


def _forging_in(postgres: PostgresServer, objects: str) -> Callable[[Path, str, str], None]:
    """In the database of the replicas, which is called as the prefix of their objects."""
    database = objects.rpartition("/")[2]

    def forge(tmp_path: Path, digest: str, other: str) -> None:
        update = f"UPDATE versions SET digest = '\\x{other}' WHERE digest = '\\x{digest}'"
        postgres.execute(f"\\c {database}", update)

    return forge
