"""The suite of the same name once more, at a server."""

from __future__ import annotations

from server_environment import at_a_server, deployment, two_entities  # noqa: F401
from test_api_versions import *  # noqa: F403
