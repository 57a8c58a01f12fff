"""Fixtures for the end-to-end tests."""

from __future__ import annotations

from api_fixtures import face, here

__all__ = ["face", "here"]
