"""The promises of the API hold over S3: by the same suites, run again."""

from __future__ import annotations

import os
from pathlib import Path

from s3_environment import in_a_bucket  # noqa: F401

import asyncart.aio

HERE = Path(__file__).parent


def test_every_suite_of_the_api_has_a_twin_over_s3() -> None:
    """Nobody who adds a suite can forget the bucket."""
    suites = {path.name.removeprefix("test_") for path in HERE.glob("test_api_*.py")}
    twins = {path.name.removeprefix("test_s3_") for path in HERE.glob("test_s3_*.py")}
    assert {*suites, "seed_guide.py"} <= twins


async def test_the_objects_are_in_the_bucket_and_nowhere_else(
    tmp_path: Path,
) -> None:
    """What the twins' environment is worth: with it, no object lies in the home."""
    (tmp_path / "a.txt").write_bytes(b"hello")
    home = tmp_path / "home"
    assert os.environ["ASYNCART_OBJECTS"].startswith("s3://")
    async with asyncart.aio.init("p", home=str(home)) as run:
        artifact = await run.log_artifact(tmp_path / "a.txt", name="data", type="dataset")
        assert await (await artifact.get_entry("a.txt")).read() == b"hello"
    assert not (home / "store").exists()
