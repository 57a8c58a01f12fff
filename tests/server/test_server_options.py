"""What a server refuses before it opens anything."""

from __future__ import annotations

from typing import Any

import pytest

from asyncart.errors import Invalid
from asyncart.server.options import ServerOptions, check


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_without_authentication_on_loopback(host: str) -> None:
    check(ServerOptions(host=host, no_auth=True))


@pytest.mark.parametrize(
    "options",
    [
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": ""},
        {"host": "192.168.1.1"},
        {"host": "example.com"},
        {"host": "127.0.0.1.example.com"},
        {"host": "127.0.0.1", "base_url": "https://art.example.com"},
        {"host": "127.0.0.1", "allow_hosts": ("art.example.com",)},
    ],
)
def test_without_authentication_anywhere_else(options: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="without authentication"):
        check(ServerOptions(no_auth=True, **options))
    check(ServerOptions(**options))  # with it, each of them is fine


@pytest.mark.parametrize(
    "options",
    [
        {"port": 65536},
        {"port": -1},
        {"drain_s": -1.0},
        {"drain_s": float("nan")},
        {"stop_s": float("inf")},
        {"log_format": "xml"},
        {"base_url": "art.example.com"},
        {"base_url": "ftp://art.example.com"},
        {"base_url": "https://"},
        {"base_url": "https://user:pw@art.example.com"},
        {"base_url": "https://art.example.com/below"},
        {"base_url": "https://art.example.com:99999"},
        {"base_url": "https://art.example.com?x=1"},
        {"catalog": "postgresql://host/db"},
    ],
)
def test_what_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        check(ServerOptions(**options))


def test_defaults_lie_below_the_home() -> None:
    options = ServerOptions(home="/h")
    assert options.catalog_url == "/h/server/catalog.sqlite"
    assert options.objects_url == "/h/server/store"
    assert options.origin == "http://127.0.0.1:8730"
    assert ServerOptions(host="::", port=1).origin == "http://127.0.0.1:1"
    assert ServerOptions(host="::1", port=1).origin == "http://[::1]:1"
    assert ServerOptions(base_url="https://a.b/").origin == "https://a.b"
