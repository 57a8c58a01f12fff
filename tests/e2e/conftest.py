"""Fixtures for the end-to-end tests."""

from __future__ import annotations

from api_fixtures import face, here, two_entities

__all__ = ["face", "here", "two_entities"]
