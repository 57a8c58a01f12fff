"""Where the S3 cases put their objects: one bucket of a server that belongs to them alone."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

BUCKET = "bench"
ACCESS_KEY, SECRET_KEY = "bench-key", "bench-secret"
REGION = "us-east-1"


@dataclass(frozen=True)
class Server:
    """A running server with one bucket, `BUCKET`."""

    endpoint: str
    metrics_url: str = ""  # where it tells what was asked of it ("": it does not)

    def environment(self) -> dict[str, str]:
        """What the usual AWS environment looks like for this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def stored_bytes(self, prefix: str) -> int:
        """Sum of the sizes of all objects below a prefix of the bucket."""
        import botocore.session

        client = botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        with contextlib.closing(client):
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=BUCKET, Prefix=prefix.rstrip("/") + "/"
            )
            return sum(item["Size"] for page in pages for item in page.get("Contents", ()))
