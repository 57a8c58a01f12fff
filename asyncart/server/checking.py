"""What the values of a request may be, beyond their types: names, ids, digests, numbers, texts.

A field means the same in every request that has it, so there is one rule for each name of a field. The
rules of names are those of `asyncart.names`, which the client has applied before; here they are the ones
that count. Nothing that passes here can make the database or the store stumble over its form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from .. import names, wire
from ..errors import Invalid
from ..model import DIGEST_BYTES, Chunk, Content, Extent, ManifestLocation, RunInfo, UploadPart

MAX_NUMBER = 1 << 53  # of bytes and entries: exact in every JSON parser, far beyond any store
MAX_TEXT_CHARS = (
    1024  # of what is neither a name nor somebody's own words: tokens, etags, run names
)
MAX_DESCRIPTION_CHARS = 1 << 20
MAX_LABELS = 1000  # aliases or tags of one version
MAX_PARTS = 10_000  # S3's
MAX_OBJECTS = 1_000_000  # of one version: 64 TB of packs
MAX_VERSIONS = 100_000  # expected to go at once: 0.7 MB
MAX_SECONDS = 1e11  # 3,000 years

_HEX_ID = re.compile(r"[0-9a-f]{32}")
_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def check(request: wire.Request) -> None:
    """Raise Invalid for the first field whose value cannot be."""
    for name in request.__struct_fields__:
        value = getattr(request, name)
        rule = _RULES.get(name)
        if rule is not None and value is not None and value is not msgspec.UNSET:
            rule(value)


def hex_id(value: str) -> None:
    if not _HEX_ID.fullmatch(value):
        raise Invalid(f"{_shown(value)} is no id: 32 hex digits in lower case")


def _public_id(value: str) -> None:
    if not _ID.fullmatch(value):
        raise Invalid(f"{_shown(value)} is no id: up to 128 of A-Z a-z 0-9 _ . -")


def _digest(value: bytes) -> None:
    if len(value) != DIGEST_BYTES:
        raise Invalid(f"a digest has {DIGEST_BYTES} bytes, not {len(value)}")


def _number(value: int, what: str) -> None:
    if not 0 <= value <= MAX_NUMBER:
        raise Invalid(f"{what} is {value}: 0 to 2**53 can be")


def _numbered(what: str) -> Callable[[int], None]:
    return lambda value: _number(value, what)


def _text(what: str, longest: int = MAX_TEXT_CHARS) -> Callable[[str], None]:
    def rule(value: str) -> None:
        if len(value) > longest:
            raise Invalid(f"{what} has {len(value)} characters: {longest} can be")
        if found := _UNSTORABLE.search(value):
            raise Invalid(
                f"{what} contains U+{ord(found[0]):04X}, which cannot be stored: remove it"
            )

    return rule


def _seconds(what: str) -> Callable[[float], None]:
    def rule(value: float) -> None:
        if not 0 <= value <= MAX_SECONDS:  # NaN is in no order
            raise Invalid(f"{what} is {value}: a number of seconds, 0 or more")

    return rule


def _each(rule: Callable[[Any], object], most: int, what: str) -> Callable[[list[Any]], None]:
    def all_of(values: list[Any]) -> None:
        if len(values) > most:
            raise Invalid(f"{len(values)} {what} at once: {most} can be; ask several times")
        for value in values:
            rule(value)

    return all_of


def _digests(values: list[bytes]) -> None:
    """A loop of 10,000 calls costs 1 ms; this is most of what a question of digests is checked for."""
    if len(values) > wire.MAX_DIGESTS:
        raise Invalid(
            f"{len(values)} digests at once: {wire.MAX_DIGESTS} can be; ask several times"
        )
    if set(map(len, values)) - {DIGEST_BYTES}:
        raise Invalid(f"a digest has {DIGEST_BYTES} bytes")


def _selector(value: str) -> None:
    if names.is_version_selector(value) is None:
        names.check_alias(value)


def _limit(value: int) -> None:
    if not 1 <= value <= wire.MAX_PAGE:
        raise Invalid(f"limit is {value}: 1 to {wire.MAX_PAGE} can be")


def _after(value: int | str) -> None:
    if isinstance(value, int):
        _number(value, "after")
    else:
        _text("after")(value)


def _metadata(value: dict[str, Any]) -> None:
    names.normalise_metadata(value)


def _config(value: dict[str, Any]) -> None:
    """As metadata, with as many keys as one likes."""
    names.normalise_metadata({"config": value})


def _run(run: RunInfo) -> None:
    _public_id(run.id)
    names.check_entity(run.entity)
    names.check_project(run.project)
    _text("the run's name")(run.name)
    _text("job_type")(run.job_type or "")
    _seconds("created_at")(run.created_at)
    _seconds("finished_at")(run.finished_at or 0.0)
    _config(run.config)


def _manifest(manifest: ManifestLocation) -> None:
    hex_id(manifest.object_id)
    _number(manifest.size, "the manifest's size")
    _number(manifest.footer_bytes, "footer_bytes")
    _digest(manifest.footer_digest)


def _part(part: UploadPart) -> None:
    if not 0 <= part.index < MAX_PARTS:
        raise Invalid(f"part {part.index}: an upload has parts 0 to {MAX_PARTS - 1}")
    _number(part.offset, "offset")
    _number(part.length, "length")
    _digest(part.digest)


def _chunk(chunk: Chunk) -> None:
    _digest(chunk.digest)
    _number(chunk.length, "the length of a chunk")


def _extents(extents: Iterable[Extent]) -> None:
    for extent in extents:
        hex_id(extent.object_id)
        _number(extent.offset, "offset")
        _number(extent.length, "length")


def _content(content: Content) -> None:
    _digest(content.digest)
    _number(content.size, "size")
    _extents(content.extents)
    for chunk in content.chunks:
        _chunk(chunk)


def _object(stored: wire.NewObject) -> None:
    hex_id(stored.object_id)
    _number(stored.size, "size")
    for chunk, offset in stored.chunks:
        _chunk(chunk)
        _number(offset, "offset")


def _wanted(wanted: wire.WantedUrl) -> None:
    hex_id(wanted.object_id)
    if wanted.part is not None and not 0 <= wanted.part < MAX_PARTS:
        raise Invalid(f"part {wanted.part}: an upload has parts 0 to {MAX_PARTS - 1}")
    _number(wanted.offset, "offset")
    _text("token")(wanted.token)


_RULES: dict[str, Callable[[Any], object]] = {
    "entity": names.check_entity,
    "project": names.check_project,
    "collection": names.check_collection_name,
    "alias": names.check_alias,
    "selector": _selector,
    "session_id": hex_id,
    "draft_id": _public_id,
    "object_id": hex_id,
    "run_id": _public_id,
    "version_id": _public_id,
    "token": _text("token"),
    "resume_key": _text("resume_key", 8192),
    "description": _text("description", MAX_DESCRIPTION_CHARS),
    "digest": _digest,
    "size": _numbered("size"),
    "size_hint": _numbered("size_hint"),
    "entry_count": _numbered("entry_count"),
    "keep_last": _numbered("keep_last"),
    "if_current": _numbered("if_current"),
    "ttl_s": _seconds("ttl_s"),
    "older_than_s": _seconds("older_than_s"),
    "limit": _limit,
    "after": _after,
    "metadata": _metadata,
    "manifest": _manifest,
    "run": _run,
    "user": names.check_entity,
    "name": _text("name"),
    "key_id": _public_id,
    "pattern": names.check_alias,
    "expires_in_s": _seconds("expires_in_s"),
    "digests": _digests,
    "object_ids": _each(hex_id, MAX_OBJECTS, "objects"),
    "aliases": _each(names.check_alias, MAX_LABELS, "aliases"),
    "add_aliases": _each(names.check_alias, MAX_LABELS, "aliases"),
    "remove_aliases": _each(names.check_alias, MAX_LABELS, "aliases"),
    "tags": _each(names.check_tag, MAX_LABELS, "tags"),
    "expected": _each(_numbered("the number of a version"), MAX_VERSIONS, "versions"),
    "etags": _each(_text("an ETag", 256), MAX_PARTS, "parts"),
    "sizes": _each(_numbered("the size of a part"), MAX_PARTS, "parts"),
    "parts": _each(_part, MAX_PARTS, "parts"),
    "objects": _each(_object, wire.MAX_KEYS, "objects"),
    "contents": _each(_content, 10 * MAX_OBJECTS, "contents"),
    "wanted": _each(_wanted, wire.MAX_URLS, "URLs"),
}


# The same, as far as JSON Schema can say it, for the description of the API.
_HEX_FORM = {"pattern": "^[0-9a-f]{32}$"}
_ID_FORM = {"pattern": "^[A-Za-z0-9_.-]{1,128}$"}
_NUMBER_FORM = {"minimum": 0, "maximum": MAX_NUMBER}
FORMS: dict[str, dict[str, Any]] = {
    "entity": _ID_FORM,
    "collection": _ID_FORM,
    "project": {"pattern": r"^[^/\#?%:\x00-\x1f]{1,128}$"},
    "alias": {"pattern": r"^[^/:\x00-\x1f]{1,128}$"},
    "session_id": _HEX_FORM,
    "object_id": _HEX_FORM,
    "draft_id": _ID_FORM,
    "run_id": _ID_FORM,
    "version_id": _ID_FORM,
    "size": _NUMBER_FORM,
    "size_hint": _NUMBER_FORM,
    "offset": _NUMBER_FORM,
    "length": _NUMBER_FORM,
    "entry_count": _NUMBER_FORM,
    "limit": {"minimum": 1, "maximum": wire.MAX_PAGE},
}


def _shown(value: str) -> str:
    return ascii(value[:80])
