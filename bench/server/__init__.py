"""The server suite: replicas on PostgreSQL and SeaweedFS of this machine, clients through one address."""

from __future__ import annotations

from pathlib import Path

from bench.peers import Peer
from bench.suites import Suite

from . import rows


def _no_peers(cache: Path) -> list[Peer]:
    return []  # what the server is compared with is asyncart without it


SUITE = Suite("server", rows.SCENARIOS, _no_peers)
