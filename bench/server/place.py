"""Where a row of this suite runs: SeaweedFS, PostgreSQL and replicas of its own, on tmpfs and 127.0.0.1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.bucket import S3Server
from bench.case import Plan
from bench.postgres import running_postgres
from bench.replicas import Cluster, running_cluster
from bench.servers import seaweedfs


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


@contextmanager
def place(plan: Plan, root: Path, *, fault_rate: float = 0.0) -> Iterator[Place]:
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
            fault_rate=fault_rate,
        ) as cluster:
            yield Place(cluster, bucket)
