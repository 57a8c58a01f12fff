"""Where a row of this suite runs: SeaweedFS, PostgreSQL and replicas of its own, on tmpfs and 127.0.0.1."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.bucket import S3Server
from bench.case import Plan
from bench.postgres import running_postgres
from bench.replicas import Cluster, running_cluster
from bench.servers import seaweedfs

PROBES = ("healthz", "readyz", "metrics")


@dataclass(frozen=True)
class Place:
    cluster: Cluster
    bucket: S3Server

    def settings(self) -> dict[str, str]:
        """The environment of a client of the server: nothing of the bucket."""
        key = self.cluster.key
        return {"ASYNCART_SERVER": self.cluster.url, **({"ASYNCART_API_KEY": key} if key else {})}

    def embedded(self) -> dict[str, str]:
        """The environment of somebody who has the catalog in a file, and the same bucket."""
        objects = f"s3://{self.bucket.bucket}/embedded"
        return {**self.bucket.environment(), "ASYNCART_OBJECTS": objects}

    def requests(self) -> int:
        """How many requests the replicas answered so far, those about their health apart."""
        return sum(requests_of(replica.url) for replica in self.cluster.replicas)


@contextmanager
def place(plan: Plan, root: Path, *, count: int = 2, fault_rate: float = 0.0) -> Iterator[Place]:
    """Raises Missing if a server cannot be had."""
    with (
        seaweedfs(root / "bucket", plan.cache) as bucket,
        running_postgres(plan.tmpfs) as postgres,
    ):
        options = ["--catalog", postgres.url(), "--objects", f"s3://{bucket.bucket}/team"]
        with running_cluster(
            root / "replicas",
            *options,
            environment=bucket.environment(),
            count=count,
            fault_rate=fault_rate,
        ) as cluster:
            yield Place(cluster, bucket)


def requests_of(url: str) -> int:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'^asyncart_requests_total\{route="([^"]*)".*\} (\d+)$', text, re.M)
    return sum(int(count) for route, count in found if route not in PROBES)
