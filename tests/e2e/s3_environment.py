"""The same tests over S3: a suite of the API runs again where objects are in a bucket.

A module `test_s3_NAME.py` imports everything of `test_NAME.py` (its tests with it) and this fixture.
`test_s3_api` fails when a suite of the API has no such twin.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import botocore.config
import botocore.session
import pytest
from services import S3Server


@pytest.fixture(autouse=True)
def in_a_bucket(aws_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Objects go to a prefix of this test's own: that, and nothing else, is different."""
    url = f"s3://{aws_environment.bucket}/{os.urandom(8).hex()}"
    monkeypatch.setenv("ASYNCART_OBJECTS", url)
    return url


@contextmanager
def raw_bucket(server: S3Server) -> Iterator[Any]:
    """A plain S3 client, for what asyncart would never do to its objects."""
    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=botocore.config.Config(request_checksum_calculation="when_required"),
    )
    try:
        yield client
    finally:
        client.close()
