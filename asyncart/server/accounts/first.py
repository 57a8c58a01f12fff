"""The first administrator: made when a server starts with a catalog that has no users yet.

Exactly once, however many replicas start at the same time: it is one transaction beside which no other
one writes. Whoever made it gets the key, once, and prints it; nobody can read it again. Where it got lost,
`asyncart server --no-auth` on the loopback interface makes everybody an administrator who can reach it,
and `asyncart admin key create --user admin` makes another key.
"""

from __future__ import annotations

from ...catalog import keys
from .service import Accounts

FIRST_USER = "admin"


async def ensure_admin(accounts: Accounts, user: str = FIRST_USER) -> str | None:
    """The text of the first key, to be shown once; None if the server has users already."""
    if await accounts.database.read(keys.has_users):
        return None
    return await accounts.first_key(user)
