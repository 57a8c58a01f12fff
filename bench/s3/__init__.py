"""The S3 suite: catalog embedded, objects in a bucket of a server on this machine, peers for S3."""

from __future__ import annotations

from bench.peers import s3_peers
from bench.suites import Suite

from . import lag, large, memory, small, verbs

# Memory comes last: it reports on all that ran before it.
SUITE = Suite(
    "s3",
    (small.SCENARIO, large.SEAWEEDFS, large.JUICEFS, lag.SCENARIO, verbs.SCENARIO, memory.SCENARIO),
    s3_peers,
)
