"""The suite of the same name once more, with the objects in a bucket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_environment import PLAIN, damage_below, in_a_bucket
from services import S3Server
from test_api_reading import *  # noqa: F403

__all__ = ["in_a_bucket"]


@pytest.fixture(autouse=True)
def damage_in_the_bucket(
    aws_environment: S3Server, in_a_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What the suite does to files of a local store is done to objects in the bucket."""
    with aws_environment.client(**PLAIN) as client:
        monkeypatch.setattr("test_api_reading.damage", damage_below(client, in_a_bucket))
        yield
