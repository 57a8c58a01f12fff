"""The suite of the same name once more, with the objects in a bucket."""

from __future__ import annotations

from s3_environment import in_a_bucket  # noqa: F401
from test_api_references import *  # noqa: F403
