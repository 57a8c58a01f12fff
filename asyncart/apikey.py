"""The text of an API key: `aart_<id>_<secret>_<checksum>`.

The id is public: it names the key in lists, logs and the audit log. The secret has 256 random bits, so
nobody guesses it, and a fast keyed hash is enough to store it. The checksum lets a scanner for leaked
secrets, and a client with a mistyped key, tell without asking anybody.
"""

from __future__ import annotations

import re
import secrets
import zlib
from typing import NamedTuple

from .errors import Invalid

PREFIX = "aart"
ID_CHARS = 12  # 71 random bits: unique, not secret
SECRET_CHARS = 43  # 256 random bits
CHECKSUM_CHARS = 6  # of CRC-32

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PATTERN = re.compile(
    rf"{PREFIX}_(?P<id>[0-9A-Za-z]{{{ID_CHARS}}})_(?P<secret>[0-9A-Za-z]{{{SECRET_CHARS}}})"
    rf"_(?P<checksum>[0-9A-Za-z]{{{CHECKSUM_CHARS}}})"
)


class ApiKey(NamedTuple):
    """`repr` and `str` do not show the secret; `text` does."""

    id: str
    secret: str

    @property
    def text(self) -> str:
        body = f"{PREFIX}_{self.id}_{self.secret}"
        return f"{body}_{_checksum(body)}"

    def __repr__(self) -> str:
        return f"ApiKey(id={self.id!r})"


def new_key() -> ApiKey:
    return ApiKey(_random(ID_CHARS), _random(SECRET_CHARS))


def parse_key(text: str) -> ApiKey:
    """Invalid, without the text in the message, if that cannot be a key."""
    found = PATTERN.fullmatch(text)
    if found is None:
        raise Invalid(
            "that is no API key: one looks like aart_<id>_<secret>_<checksum>; "
            "copy it as it was shown, without spaces"
        )
    key = ApiKey(found["id"], found["secret"])
    if key.text != text:
        raise Invalid(f"API key {key.id} is mistyped: its checksum does not fit; copy it again")
    return key


def _random(count: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(count))


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode("ascii")), ""
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
