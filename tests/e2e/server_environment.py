"""The same tests at a server: a suite of the API runs again where a server has catalog and objects.

A module `test_server_NAME.py` imports everything of `test_NAME.py` (its tests with it) and these fixtures.
Every test runs at two deployments:

- "folder": a server of the test's own with an SQLite file and a folder, so that bytes go through it;
- "replicas": two processes on PostgreSQL and SeaweedFS behind one address, with accounts, so that bytes go
  past them. The tests of a session share them; each is a user of its own, with nothing but a user's rights.

`test_server_api` fails when a suite of the API has no such twin.
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

import pytest

from asyncart.wire import PREFIX, Role, Scope
from bench.replicas import Cluster

DEPLOYMENTS = ["folder", "replicas"]
SCOPES = [Scope.READ, Scope.WRITE, Scope.ALIAS, Scope.DELETE]


class Admin:
    """What the administrator of a server does for a test."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def user(self) -> tuple[str, str]:
        """A new user and their key."""
        name = f"user-{os.urandom(6).hex()}"
        self._ask("POST", "/users", {"name": name})
        made = self._ask("POST", "/keys", {"user": name, "scopes": SCOPES})
        return name, made["text"]

    def team(self, user: str) -> str:
        """A new team that the user works in."""
        name = f"team-{os.urandom(6).hex()}"
        self._ask("POST", "/teams", {"name": name})
        self._ask("PUT", f"/entities/{name}/members/{user}", {"role": Role.MAINTAINER})
        return name

    def _ask(self, method: str, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self._cluster.url}{PREFIX}{path}",
            json.dumps(body).encode(),
            {
                "Authorization": f"Bearer {self._cluster.key}",
                "Content-Type": "application/json",
            },
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@pytest.fixture(params=DEPLOYMENTS)
def deployment(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def at_a_server(
    deployment: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Catalog and objects are a server's: that, and nothing else, is different. Its URL."""
    if deployment == "folder":
        url = str(request.getfixturevalue("fresh_server"))
    else:
        cluster: Cluster = request.getfixturevalue("two_replicas")
        url = cluster.url
        user, key = Admin(cluster).user()
        monkeypatch.setenv("ASYNCART_API_KEY", key)
        request.node.stash[USER] = user
    monkeypatch.setenv("ASYNCART_SERVER", url)
    return url


USER = pytest.StashKey[str]()


@pytest.fixture
def two_entities(
    deployment: str, at_a_server: str, request: pytest.FixtureRequest
) -> tuple[str, str]:
    """Teams, where there are accounts."""
    if deployment == "folder":
        return "me", "you"
    admin = Admin(request.getfixturevalue("two_replicas"))
    user = request.node.stash[USER]
    return admin.team(user), admin.team(user)
