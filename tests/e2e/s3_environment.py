"""The same tests over S3: a suite of the API runs again where objects are in a bucket.

A module `test_s3_NAME.py` imports everything of `test_NAME.py` (its tests with it) and this fixture.
`test_s3_api` fails when a suite of the API has no such twin.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from services import S3Server

# Settings of a client that does to objects what asyncart never would: it says no checksum of its own.
PLAIN = {"request_checksum_calculation": "when_required"}


@pytest.fixture(autouse=True)
def in_a_bucket(aws_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Objects go to a prefix of this test's own: that, and nothing else, is different."""
    url = f"s3://{aws_environment.bucket}/{os.urandom(8).hex()}"
    monkeypatch.setenv("ASYNCART_OBJECTS", url)
    return url


def keys_below(client: Any, url: str) -> set[str]:
    """The keys of all objects there."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return {item["Key"] for page in pages for item in page.get("Contents", ())}


def damage_below(
    client: Any, url: str, others: Collection[str] = ()
) -> Callable[[Path, bytes, bytes], None]:
    """What `test_api_reading` calls damage, done to the one object there that is nobody else's."""
    bucket = url.removeprefix("s3://").partition("/")[0]

    def damage(tmp_path: Path, before: bytes, after: bytes) -> None:
        shutil.rmtree(tmp_path / "home" / "cache", ignore_errors=True)
        changed = 0
        for key in keys_below(client, url).difference(others):
            where = {"Bucket": bucket, "Key": key}
            data = client.get_object(**where)["Body"].read()
            if before in data:
                client.put_object(**where, Body=data.replace(before, after))
                changed += 1
        assert changed == 1

    return damage
