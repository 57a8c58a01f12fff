"""Fixtures for all tests."""

from __future__ import annotations

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
