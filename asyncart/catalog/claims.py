"""What is said to lie in an object: for whoever wants to know whether its bytes are right."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.engine import Connection

from asyncart.model import DIGEST_BYTES, ManifestLocation

from . import bulk
from .tables import STORED, chunks, contents, listings, objects, version_objects, versions


class Claim(NamedTuple):
    """These bytes of the object have this digest."""

    offset: int
    length: int
    digest: bytes


class Listed(NamedTuple):
    """The object is the list of files of a version whose content has this digest."""

    manifest: ManifestLocation
    digest: bytes


class Claims(NamedTuple):
    """All that is known of a stored object. `lists`: what it is, as versions say."""

    size: int
    is_damaged: bool
    runs: list[Claim]
    lists: list[Listed]


def of_object(conn: Connection, object_id: str) -> Claims | None:
    """None if no such object is stored. Claims are in the order of their offsets."""
    row = conn.execute(
        select(objects.c.id, objects.c.entity_id, objects.c.size, objects.c.is_damaged).where(
            objects.c.object_id == object_id, objects.c.state == STORED
        )
    ).first()
    if row is None:
        return None
    runs: set[Claim] = set()
    listed = conn.execute(
        select(listings.c.contents, listings.c.chunks).where(listings.c.object == row.id)
    ).all()
    for table, packed in (
        (contents, b"".join(each.contents for each in listed)),
        (chunks, b"".join(each.chunks for each in listed)),
    ):
        digests = sorted(
            {packed[at : at + DIGEST_BYTES] for at in range(0, len(packed), DIGEST_BYTES)}
        )
        for asked, found in bulk.find(conn, table, row.entity_id, digests):
            # A recipe says nothing of a single run, and a row may point to another copy by now.
            runs.update(
                Claim(offset, length, asked[index])
                for index, object_, offset, length, has_recipe in found
                if object_ == row.id and not has_recipe
            )
    lists = conn.execute(
        select(
            versions.c.manifest_object_id,
            versions.c.manifest_size,
            versions.c.footer_bytes,
            versions.c.footer_digest,
            versions.c.digest,
        )
        .distinct()
        # Live versions reach their manifests; `versions` has no index by their ids.
        .join(version_objects, version_objects.c.version_id == versions.c.id)
        .where(
            version_objects.c.object == row.id,
            versions.c.manifest_object_id == object_id,
            versions.c.deleted_at.is_(None),
        )
    ).all()
    return Claims(
        row.size,
        row.is_damaged,
        sorted(runs),
        [Listed(ManifestLocation(*where), digest) for *where, digest in lists],
    )
