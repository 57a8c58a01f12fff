"""Requests under a foreign name, or from a foreign page, are refused."""

from __future__ import annotations

import pytest

from asyncart.errors import Denied
from asyncart.server.gate import check_host, check_origin, own_origins
from asyncart.server.options import ServerOptions

NAMES = ServerOptions(
    allow_hosts=("Other.example",), base_url="https://art.example.com:8443"
).host_names()


@pytest.mark.parametrize(
    "header",
    [
        "127.0.0.1",
        "127.0.0.1:8730",
        "localhost:1",
        "LOCALHOST",
        "[::1]",
        "[::1]:8730",
        "art.example.com",
        "ART.example.com:8443",
        "other.example",
    ],
)
def test_our_own_names(header: str) -> None:
    check_host(header, NAMES)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        ":8730",
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8730",
        "localhost.evil.example",
        "evil.example@127.0.0.1.evil",
        "[::2]",
        "[",
        "127.0.0.1, evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "loc\u0430lhost",
    ],
)
def test_any_other_name(header: str | None) -> None:
    with pytest.raises(Denied):
        check_host(header, NAMES)


def test_a_wildcard_address_is_no_name() -> None:
    assert "0.0.0.0" not in ServerOptions(host="0.0.0.0").host_names()


def test_origins() -> None:
    own = own_origins("127.0.0.1:8730", "https://art.example.com/")
    for origin in (None, "http://127.0.0.1:8730", "https://art.example.com"):
        check_origin(origin, own)
    for origin in ("http://127.0.0.1", "http://127.0.0.1:1", "null", "https://evil.example", ""):
        with pytest.raises(Denied):
            check_origin(origin, own)
