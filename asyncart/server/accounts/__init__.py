"""Who calls: API keys become principals.

`Accounts` authenticates and makes keys; what else there is to know and to change about users, teams and
roles is in `catalog.accounts`, and who may change it in `policy`.
"""

from __future__ import annotations

from .first import ensure_admin
from .service import Accounts

__all__ = ["Accounts", "ensure_admin"]
