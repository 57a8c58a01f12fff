"""Fixtures for all tests."""

from __future__ import annotations

from services import aws_environment, postgres, postgres_url, seaweedfs

__all__ = ["aws_environment", "postgres", "postgres_url", "seaweedfs"]
