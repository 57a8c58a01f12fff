"""References that we neither open nor fetch: `s3://`, `gs://`, `az://` and whatever we do not know.

The URI is recorded; fetching it is up to whoever knows the scheme.
"""

from __future__ import annotations

import logging

from asyncart.engine.target import Target
from asyncart.model import Entry

from .uris import public, recorded, scheme_of

logger = logging.getLogger(__name__)


class Recorded:
    async def resolve(
        self, uri: str, *, name: str | None, checksum: bool, max_objects: int
    ) -> list[Entry]:
        return [recorded(uri, name)]

    async def fetch(self, entry: Entry, target: Target) -> None:
        assert entry.reference is not None
        uri = entry.reference.uri
        logger.warning(
            "%s is not downloaded: %s is only recorded, as asyncart does not open %s:// itself; get it from "
            "there (ref_target() is the URI)",
            entry.path,
            public(uri),
            scheme_of(uri),
        )
