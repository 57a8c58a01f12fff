"""Authentication, and what else needs the server's secret: making keys, and ending them.

A key is looked up by its public id and compared in constant time, by its hash. What was found is believed
for `CACHE_S`, so a key that was revoked, or whose user was disabled, ends at once on the replica that was
asked to do it, and within `CACHE_S` on the others. (On two cores the look-up takes 0.3 ms with SQLite and
1.1 ms with PostgreSQL, a tenth of a small request; from the cache, 5 microseconds.)

Whether a key never was, was revoked or has expired is not told apart to whoever holds it.
"""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from ...apikey import ApiKey, new_key, parse_key
from ...catalog import accounts, keys
from ...catalog.keys import Credential
from ...catalog.transactions import Database
from ...errors import AsyncartError, Denied, Invalid
from ...wire import Key, NewKey, Scope, User
from ..audit import AuditedDatabase
from ..failures import Unauthenticated
from ..limits import Refusals
from ..policy import Principal

CACHE_S = 2.0
MOST_CACHED = 10_000
MOST_KNOWN = 10_000  # keys that were right, of which wrong ones from the same address keep nobody
SECRET_VARIABLE = "ASYNCART_SERVER_SECRET"
MIN_SECRET_CHARS = 32

LOGGER = logging.getLogger(__name__)


class Accounts:
    """See the module. One object per replica.

    `secret`: instead of the one that is kept in the database. All replicas need the same; with another
    one no key is valid any more.
    """

    def __init__(
        self,
        database: Database,
        *,
        secret: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given = secret if secret is not None else os.environ.get(SECRET_VARIABLE) or None
        if given is not None and len(given) < MIN_SECRET_CHARS:
            raise Invalid(
                f"{SECRET_VARIABLE} is too short: give it at least {MIN_SECRET_CHARS} characters, "
                f"such as those of `openssl rand -hex 32`"
            )
        self.database: Database = AuditedDatabase(database)
        self._plain = database
        self._hash_key = None if given is None else keys.hash_key(given.encode())
        self._clock = clock
        self._cached: OrderedDict[str, tuple[Credential, float]] = OrderedDict()
        self._known: OrderedDict[bytes, None] = OrderedDict()  # hashes
        self._refusals = Refusals(clock)

    def __repr__(self) -> str:
        return f"<Accounts of {self.database.name}>"

    # who calls

    async def authenticate(self, header: str | None, address: str = "") -> Principal:
        """The bearer of the key in the Authorization header. Raises Unauthenticated, or TooMany after
        many wrong keys from one address; but not for a key that was right here before: strangers behind the
        same proxy would shut out everybody."""
        key = _key_of(header)
        hash_ = await self._hash_of(key)
        credential = self._remembered(key.id)
        if credential is None:
            if hash_ not in self._known:
                self._refusals.check(address)
            credential = await self._look_up(key.id)
        if not _is_right(hash_, credential) or credential is None:
            self._known.pop(hash_, None)
            self._refusals.note(address)
            LOGGER.info("refused API key %s", key.id)
            raise Unauthenticated(
                f"API key {key.id} is not valid (any more); run `asyncart login` with another one"
            )
        self._remember(hash_)
        return Principal(
            user_id=credential.user_id,
            user=credential.user,
            key_id=credential.id,
            scopes=credential.scopes,
            project=credential.project,
            is_admin=credential.is_admin,
        )

    def _remember(self, hash_: bytes) -> None:
        self._known[hash_] = None
        self._known.move_to_end(hash_)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def _remembered(self, key_id: str) -> Credential | None:
        """What was found a moment ago, with the time that has passed since."""
        if (cached := self._cached.get(key_id)) is None:
            return None
        credential, since = cached
        passed = self._clock() - since
        if passed >= CACHE_S:
            del self._cached[key_id]
            return None
        return credential._replace(now=credential.now + passed)

    async def _look_up(self, key_id: str) -> Credential | None:
        asked_at = self._clock()
        credential = await self.database.read(keys.find, key_id)
        if credential is None or credential.has_ended:
            return credential
        if credential.used_on != keys.today(credential.now):
            await self._note_use(key_id)
        self._cached[key_id] = (credential, asked_at)
        while len(self._cached) > MOST_CACHED:
            self._cached.popitem(last=False)
        return credential

    async def _note_use(self, key_id: str) -> None:
        """Once a day. That it could not be written down is no reason to refuse the key."""
        try:
            await self.database.write(keys.note_use, key_id)
        except AsyncartError as error:
            LOGGER.warning("cannot write down that API key %s was used: %s", key_id, error)

    # keys

    async def create_key(self, principal: Principal, *, user: str | None, name: str,
                         scopes: Iterable[Scope], project: tuple[str, str] | None,
                         expires_in_s: float | None) -> NewKey:  # fmt: skip
        """A key that may no more than the one that makes it. Its text is in the answer and nowhere else."""
        wanted = frozenset(scopes)
        if not wanted:
            raise Invalid("an API key without a scope is of no use: give it at least 'read'")
        if excess := wanted - principal.scopes:
            raise Denied(
                f"API key {principal.key_id} has not the scope '{min(excess).value}' itself, "
                f"and cannot give it to another key"
            )
        if principal.project is not None and project != principal.project:
            where = "/".join(principal.project)
            raise Denied(
                f"API key {principal.key_id} is for {where} only, and so are the keys that it makes"
            )
        if expires_in_s is not None and expires_in_s <= 0:
            raise Invalid(f"an API key cannot expire {-expires_in_s:g} s ago")
        own = await self.database.read(keys.find, principal.key_id)
        expires_by = None if own is None else own.expires_at
        key = new_key()
        made = await self.database.write(
            keys.create_key,
            user or principal.user,
            key,
            await self._hash_of(key),
            name=name,
            scopes=wanted,
            project=project,
            expires_in_s=expires_in_s,
            expires_by=expires_by,
        )
        return NewKey(key=made, text=key.text)

    async def list_keys(self, user: str) -> list[Key]:
        return await self.database.read(keys.list_keys, user)

    async def revoke_key(self, key_id: str) -> None:
        """For good, and at once on this replica."""
        await self.database.write(keys.revoke_key, key_id)
        self._cached.pop(key_id, None)

    async def update_user(
        self, name: str, *, is_admin: bool | None, is_disabled: bool | None
    ) -> User:
        user = await self.database.write(
            accounts.update_user, name, is_admin=is_admin, is_disabled=is_disabled
        )
        self._cached.clear()
        return user

    async def first_key(self, user: str) -> str | None:
        """See `first.ensure_admin`."""
        key = new_key()
        hash_ = await self._hash_of(key)
        is_made = await self.database.write_alone(keys.ensure_admin, user, key, hash_)
        return key.text if is_made else None

    async def _hash_of(self, key: ApiKey) -> bytes:
        if self._hash_key is None:
            secret = await self._plain.read(keys.get_secret)
            if secret is None:
                secret = await self._plain.write(keys.ensure_secret)
            self._hash_key = keys.hash_key(secret)
        return keys.hash_of(key, self._hash_key)


def _is_right(hash_: bytes, credential: Credential | None) -> bool:
    expected = bytes(32) if credential is None else credential.hash
    is_same = hmac.compare_digest(hash_, expected)
    return is_same and credential is not None and not credential.has_ended


def _key_of(header: str | None) -> ApiKey:
    scheme, _, text = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise Unauthenticated(
            "this server wants an API key: run `asyncart login`, or set ASYNCART_API_KEY"
        )
    try:
        return parse_key(text.strip())
    except Invalid as error:
        raise Unauthenticated(str(error)) from None
