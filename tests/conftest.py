"""Fixtures for all tests."""

from __future__ import annotations

from services import seaweedfs

__all__ = ["seaweedfs"]
