"""The origin of a server: what a key is bound to, and what a client is told to talk to.

An origin is `scheme://host[:port]`, in one spelling. Refused: anything behind it (a path would be another
server's), names and passwords in it, and plain http to another machine, where a key could be read on the
way, unless the setting `allow_insecure_http` says so.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from .errors import Invalid

DEFAULT_PORTS = {"http": 80, "https": 443}


def check_origin(url: str, *, allow_insecure_http: bool = False) -> str:
    """The origin of the URL of a server, in its one spelling. Raises Invalid."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise Invalid(f"server {_shown(url)!r}: {error}; write it as https://host") from None
    host = parts.hostname
    if parts.scheme not in DEFAULT_PORTS or not host:
        raise Invalid(f"server {_shown(url)!r}: not a URL of a server; write it as https://host")
    if "@" in parts.netloc:
        raise Invalid(
            f"server {_shown(url)!r}: no names and passwords here; `asyncart login` takes the key"
        )
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise Invalid(f"server {_shown(url)!r}: only scheme and host, as in https://host:8443")
    if parts.scheme == "http" and not allow_insecure_http and not is_loopback(host):
        raise Invalid(
            f"server {_shown(url)!r}: over plain http anybody on the way reads the key and the data; use https, or set ASYNCART_ALLOW_INSECURE_HTTP=1 if that network is yours alone"
        )
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + (
        f":{port}" if port and port != DEFAULT_PORTS[parts.scheme] else ""
    )


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, by its name alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(url: str) -> str:
    """Without what could be a password."""
    scheme, separator, rest = url.strip().partition("://")
    return scheme + separator + rest.rpartition("@")[2].partition("?")[0]
