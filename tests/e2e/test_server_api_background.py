"""The suite of the same name once more, at a server."""

from __future__ import annotations

from server_environment import at_a_server, deployment  # noqa: F401
from test_api_background import *  # noqa: F403
