"""The catalog: names, versions, runs, and where their bytes lie.

`open_catalog` gives a `Catalog` over SQLite (one file, nothing to start) or PostgreSQL. SQLAlchemy is
imported when the first one is opened, not before.
"""

from __future__ import annotations

from .protocol import Catalog

__all__ = ["Catalog", "open_catalog", "upgrade"]


async def open_catalog(url: str) -> Catalog:
    """Open the catalog, and make it if it is new.

    `url` is a path, `sqlite:///relative/path`, `sqlite:////absolute/path` or
    `postgresql://user:password@host/database`. An older SQLite file is brought up to date; an older
    PostgreSQL database is refused (Unavailable) until `upgrade(url)` was called. Invalid if it is the
    database of something else or of a newer asyncart, Corrupt if the file is not a database.
    """
    from . import opening

    return await opening.open_catalog(url, may_upgrade=False)


async def upgrade(url: str) -> None:
    """Bring the database up to this version's schema. Older asyncarts can no longer use it then."""
    from . import opening

    catalog = await opening.open_catalog(url, may_upgrade=True)
    await catalog.aclose()
