"""The API keys of this user, each bound to the origin of the server that it was made for.

Promised: a key that was stored for one origin is given out for that origin alone. It lies in the system's
keyring if the package `keyring` is installed and has a place for it, else in `credentials.json` below
ASYNCART_HOME, which only its owner can read (mode 0600, from its first byte on).

Refused: a file that others may read (as ssh does): whoever could read it may have the keys.

The file also says which server this user has logged in to last; the key itself need not be in it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any, NamedTuple

import msgspec

from .errors import Denied, Invalid, Unavailable
from .origins import check_origin

FILE = "credentials.json"
SERVICE = "asyncart"  # the name of our entries in a keyring


class Found(NamedTuple):
    """A key, and for people where it came from."""

    api_key: str
    source: str

    def __repr__(self) -> str:
        return f"Found(source={self.source!r})"


class _Kept(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The file. `server` is an origin, `keys` are by origin."""

    server: str = ""
    keys: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"_Kept({self.server!r})"


def find_key(home: str, origin: str) -> Found | None:
    """The key that was stored for this origin. May wait for the user to unlock the keyring."""
    origin = check_origin(origin, allow_insecure_http=True)
    api_key = _in_keyring("get_password", SERVICE, origin)
    if isinstance(api_key, str) and api_key:
        return Found(api_key, "keyring")
    api_key = _read(home).keys.get(origin)
    return Found(api_key, file_of(home)) if api_key else None


def log_in(home: str, origin: str, api_key: str) -> str:
    """Store the key for this origin, which is the server from now on; returns where it lies."""
    origin = check_origin(origin, allow_insecure_http=True)
    kept = _read(home)
    kept.keys.pop(origin, None)
    kept.server = origin
    _in_keyring("set_password", SERVICE, origin, api_key)
    # Some keyrings take everything and keep nothing.
    is_kept = _in_keyring("get_password", SERVICE, origin) == api_key
    if not is_kept:
        kept.keys[origin] = api_key
    _write(home, kept)
    return "keyring" if is_kept else file_of(home)


def log_out(home: str, origin: str) -> bool:
    """Forget the key for this origin; False if there was none."""
    origin = check_origin(origin, allow_insecure_http=True)
    kept = _read(home)
    was_in_keyring = bool(_in_keyring("get_password", SERVICE, origin))
    if was_in_keyring:
        _in_keyring("delete_password", SERVICE, origin)
    was_in_file = kept.keys.pop(origin, None) is not None
    if kept.server == origin:
        kept.server = ""
    elif not was_in_file:
        return was_in_keyring
    _write(home, kept)
    return was_in_keyring or was_in_file


def logged_in_to(home: str) -> str:
    """The origin of the server that this user has logged in to, or an empty string."""
    return _read(home).server


def file_of(home: str) -> str:
    return os.path.join(home, FILE)


def _read(home: str) -> _Kept:
    path = file_of(home)
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if sys.platform != "win32" and mode & 0o077:
                raise Denied(
                    f"{path} holds keys, and others may read it (mode {mode & 0o777:o}); chmod 600 it, and revoke the keys if somebody may have"
                )
            return msgspec.json.decode(file.read(), type=_Kept)
    except (FileNotFoundError, NotADirectoryError):
        return _Kept()
    except msgspec.MsgspecError as error:
        # Not the error's own words: they may quote the file.
        raise Invalid(
            f"{path} is damaged: remove it, and `asyncart login` again"
        ) from error.with_traceback(None)
    except Denied:
        raise
    except PermissionError as error:
        raise Denied(
            f"{path} cannot be read: permission denied; set ASYNCART_HOME to a folder of yours"
        ) from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror or error}") from error


def _write(home: str, kept: _Kept) -> None:
    path = file_of(home)
    if not kept.server and not kept.keys:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    partial = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        os.makedirs(home, exist_ok=True)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(msgspec.json.encode(kept))
                file.flush()
                os.fsync(fd)
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror or error}") from error


def _in_keyring(verb: str, *arguments: str) -> Any:
    """The answer of the keyring; None if there is no keyring, or it is locked, or refuses."""
    try:
        keyring = importlib.import_module("keyring")
    except ImportError:
        return None
    try:
        return getattr(keyring, verb)(*arguments)
    except Exception:  # a backend raises what its system raises: then there is the file
        return None
