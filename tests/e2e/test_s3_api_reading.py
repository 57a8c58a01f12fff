"""The suite of the same name once more, with the objects in a bucket."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_environment import in_a_bucket, raw_bucket
from services import S3Server
from test_api_reading import *  # noqa: F403

__all__ = ["in_a_bucket"]


@pytest.fixture(autouse=True)
def damage_in_the_bucket(
    aws_environment: S3Server, in_a_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What the suite does to files of a local store is done to objects in the bucket."""
    with raw_bucket(aws_environment) as client:
        monkeypatch.setattr("test_api_reading.damage", _damage(client, in_a_bucket))
        yield


def _damage(client: object, url: str) -> Callable[[Path, bytes, bytes], None]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")

    def damage(tmp_path: Path, before: bytes, after: bytes) -> None:
        shutil.rmtree(tmp_path / "home" / "cache", ignore_errors=True)
        listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")  # type: ignore[attr-defined]
        changed = 0
        for item in listed["Contents"]:
            where = {"Bucket": bucket, "Key": item["Key"]}
            data = client.get_object(**where)["Body"].read()  # type: ignore[attr-defined]
            if before in data:
                client.put_object(**where, Body=data.replace(before, after))  # type: ignore[attr-defined]
                changed += 1
        assert changed == 1

    return damage
