"""Where S3 cases and tests put their objects: one bucket of a server that belongs to them alone."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BUCKET = "bench"
ACCESS_KEY, SECRET_KEY = "bench-key", "bench-secret"
REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket."""

    endpoint: str
    metrics_url: str = ""  # where it tells what was asked of it ("": it does not)
    pid: int = 0
    bucket: str = BUCKET
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    def environment(self) -> dict[str, str]:
        """What the usual AWS environment looks like for this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextlib.contextmanager
    def client(self, **config: Any) -> Iterator[Any]:
        """A plain S3 client (botocore's, blocking), with these settings of its `Config`."""
        from botocore.config import Config

        client = _session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(**config),
        )
        with contextlib.closing(client):
            yield client

    def stored_bytes(self, prefix: str) -> int:
        """Sum of the sizes of all objects below a prefix of the bucket."""
        with self.client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix.rstrip("/") + "/"
            )
            return sum(item["Size"] for page in pages for item in page.get("Contents", ()))


@functools.cache
def _session() -> Any:
    """One for all: each has to read the description of S3 first, 0.3 s."""
    import botocore.session

    return botocore.session.Session()
