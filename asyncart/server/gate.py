"""Which requests are for us at all: the Host header and the Origin.

A page in somebody's browser may make it send requests to 127.0.0.1, under a name of the page's own that
resolves to it (DNS rebinding), or across origins. So a request has to name a host that we were told is
ours, and one that comes from a page has to come from our own. Health and metrics are exempt: whoever asks
for them knows us by address, and they do and say nothing of anybody's data. How busy we are is nobody else's
business, though: metrics are for this machine, and for whoever has a key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from ..errors import Denied
from .options import is_loopback

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")  # what proxies say of themselves


def check_host(header: str | None, names: Collection[str]) -> None:
    """Raise Denied unless the Host header names one of `names`; ports do not matter."""
    name = host_name(header or "")
    if name not in names:
        shown = ascii(name)[1:-1][:100]
        raise Denied(
            f"host {shown!r}: this server does not go by that name; start it with "
            f"--allow-host or --base-url, or use one of its own names"
        )


def check_origin(header: str | None, own: Collection[str]) -> None:
    """Raise Denied for a page of another origin. Programs send no Origin."""
    if header is not None and header.rstrip("/").lower() not in own:
        shown = ascii(header)[1:-1][:100]
        raise Denied(f"origin {shown!r}: pages of other origins may not use this server")


def is_of_this_machine(address: str | None, headers: Mapping[str, str]) -> bool:
    """Whether somebody on this machine asks, and for themselves: a proxy here asks for anybody."""
    is_passed_on = any(name in headers for name in PASSED_ON)
    return address is not None and is_loopback(address) and not is_passed_on


def host_name(header: str) -> str:
    """The host without its port, in lower case; "" for what is no host."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def own_origins(host: str, base_url: str) -> frozenset[str]:
    """Where our own pages come from: the host that was asked (checked before), and the base URL."""
    origins = {f"http://{host}".lower(), f"https://{host}".lower()}
    if base_url:
        origins.add(base_url.rstrip("/").lower())
    return frozenset(origins)
