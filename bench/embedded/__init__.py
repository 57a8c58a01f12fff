"""The embedded store's suite: SQLite catalog, local directory of objects, local peers."""

from __future__ import annotations

from bench.peers import local_peers
from bench.suites import Suite

from . import dedupe, large, memory, small, startup

# Memory comes last: it reports on all that ran before it.
SUITE = Suite(
    "embedded",
    (startup.SCENARIO, small.SCENARIO, large.SCENARIO, dedupe.SCENARIO, memory.SCENARIO),
    local_peers,
)
