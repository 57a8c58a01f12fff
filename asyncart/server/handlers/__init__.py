"""What each route of `wire.ROUTES` does; importing this package registers them all."""

from . import about, admin, garbage, objects, runs, sessions, uploads, versions

__all__ = ["about", "admin", "garbage", "objects", "runs", "sessions", "uploads", "versions"]
