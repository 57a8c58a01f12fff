"""Fixtures for all tests."""

from __future__ import annotations

import gc

from services import (
    asyncart_server,
    aws_environment,
    fresh_server,
    postgres,
    postgres_url,
    seaweedfs,
    two_replicas,
)

__all__ = [
    "asyncart_server",
    "aws_environment",
    "fresh_server",
    "postgres",
    "postgres_url",
    "seaweedfs",
    "two_replicas",
]


def pytest_collection_finish() -> None:
    """Thousands of collected tests need not be walked through by every collection of garbage that a test
    makes to see what it left behind (0.4 s each, in some 1,500 tests)."""
    gc.collect()
    gc.freeze()
