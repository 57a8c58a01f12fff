"""What a kind of reference can do: find out what a URI stands for, and bring that here later."""

from __future__ import annotations

import os
from typing import Protocol

from asyncart.engine.target import Target
from asyncart.model import Entry

MAX_OBJECTS = 10_000  # of one directory, unless the caller says otherwise; as in W&B


class Resolver(Protocol):
    async def resolve(
        self, uri: str, *, name: str | None, checksum: bool, max_objects: int
    ) -> list[Entry]:
        """The entries that the URI stands for, sorted by path; `name` is the path, or the prefix of many.

        Raises NotFound, Denied, Unavailable; Invalid if there are more than `max_objects`.
        """

    async def fetch(self, entry: Entry, target: Target) -> os.stat_result | None:
        """Write what the entry refers to; gives the stat of the new file.

        Raises Conflict if it is not what was logged any more. None where there is only a record of the URI.
        """
