"""Settings: where each one came from, and nothing else.

Precedence: arguments > `ASYNCART_*` > `asyncart.toml` (this folder or the nearest above) > the user's
configuration file > defaults. Reading them has no side effect; nothing is created here.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from . import credentials
from .errors import Invalid
from .origins import check_origin

PROJECT_FILE = "asyncart.toml"
CACHE_BYTES = 10 << 30
# Of buffers; with what is imported and a tree of 100,000 files a process that talks to a bucket comes to 150 MB
# more. 256 MiB made 403-435 MiB of it, 192 MiB makes 334-364. Times, two rounds each: 100,000 files to SeaweedFS
# 7.3-7.4 s with 256 and 7.7-7.8 s with 192 MiB, back 7.0-8.3 and 6.5-8.6 s; 4 x 512 MiB 10.7-12.3 and 10.2-10.4 s,
# back 4.5-9.2 and 4.1-8.5 s. It covers 50 ms of 30 Gbit/s.
MEMORY_BYTES = 192 << 20


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, resolved. Paths are absolute; sizes are bytes; times are seconds.

    `home` is the one root for everything that asyncart writes by itself. `objects` and `catalog` are
    URLs or paths (default: below `home`). `artifacts_dir` is where `download()` puts artifacts when it is given no folder.

    `memory_bytes` limits the buffers of all transfers of the process together. Where its runs ask for
    different limits, the largest one asked for so far holds for all of them.

    `cache_bytes` is what the cache for objects of remote stores may take of the disk; 0 turns it off. The
    default is 10 GiB: a disk must not be filled by what nobody asked for, and this fits beside the data on
    the small machines that gain most (the 14 GB of a CI runner), yet holds 160 packs, that is a million
    files of 10 KB. The disk's last 5 % and last GiB are left alone in any case. Filling it costs 0.2 CPU
    seconds per GiB and no time (512 MiB over loopback: 0.83 s with and without); from it the same came in
    0.47 s, and through a real network the difference is that between the network and the disk.

    `server` is the origin of an `asyncart server`, which then has catalog and objects; `api_key` is what it
    knows the user by (default: what `asyncart login` stored for that origin). There an empty `entity` means
    the key's own. `allow_insecure_http` lets both travel over plain http to another machine.
    """

    home: str
    objects: str = ""
    catalog: str = ""
    server: str = ""
    api_key: str = ""
    allow_insecure_http: bool = False
    entity: str = "local"
    project: str = "uncategorized"
    artifacts_dir: str = "artifacts"
    memory_bytes: int = MEMORY_BYTES
    cache_bytes: int = CACHE_BYTES
    threads: int = 0  # 0: from the number of cores
    workers: int = (
        0  # processes for one transfer; 0: from the cores and the files, 1: only this one
    )
    stall_timeout_s: float = 30.0
    limit_rate_bytes: int = 0  # bytes per second over all transfers; 0: no limit

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(n, getattr(self, n)) for n in self.__struct_fields__ if n not in SECRETS]

    @property
    def catalog_url(self) -> str:
        return self.catalog or str(Path(self.home) / "catalog.sqlite")

    @property
    def objects_url(self) -> str:
        return self.objects or str(Path(self.home) / "store")

    @property
    def statcache_path(self) -> str:
        return str(Path(self.home) / "statcache.sqlite")

    @property
    def cache_dir(self) -> str:
        return str(Path(self.home) / "cache")

    @property
    def drafts_dir(self) -> str:
        return str(Path(self.home) / "drafts")


FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}
LOGIN = "asyncart login"  # the source of a server that nothing else named
SECRETS = ("api_key",)  # never shown
PATHS = ("home", "objects", "catalog")
POSITIVE = ("memory_bytes", "stall_timeout_s")
_HALF_A_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)"
)  # two letters: one is a drive of Windows


class Resolved(msgspec.Struct, frozen=True):
    """Settings, and for each field the source that it was taken from."""

    settings: Settings
    sources: dict[str, str]


def load(**arguments: Any) -> Settings:
    """The settings in force here; None among the arguments means "not given"."""
    return resolve(**arguments).settings


def resolve(**arguments: Any) -> Resolved:
    """Like `load`, with the provenance of each field. Raises Invalid, naming the source."""
    values: dict[str, Any] = {"home": default_home()}
    sources = dict.fromkeys(FIELDS, "default")
    layers = [_file_layer(user_file()), _file_layer(project_file()), _environment()]
    layers.append(("argument", {k: v for k, v in arguments.items() if v is not None}))
    for source, layer in layers:
        for key, value in layer.items():
            if key not in FIELDS:
                known = ", ".join(sorted(FIELDS))
                raise Invalid(f"{key!r} from {source} is not a setting; known are {known}")
            values[key] = _converted(key, value, source)
            sources[key] = source
    _find_server(values, sources)
    return Resolved(Settings(**values), sources)


def _find_server(values: dict[str, Any], sources: dict[str, str]) -> None:
    """Check the server, or take the one that the user has logged in to, unless something else was said."""
    local = [name for name in ("catalog", "objects") if values.get(name)]
    if not values.get("server"):
        if not local and (origin := credentials.logged_in_to(values["home"])):
            values["server"], sources["server"] = origin, LOGIN
    elif local:
        both = f"server = {values['server']!r} (from {sources['server']}) and {local[0]} = {values[local[0]]!r} (from {sources[local[0]]})"
        raise Invalid(f"{both}: a server has its own catalog and objects; give only one of the two")
    if values.get("server"):
        is_allowed = values.get("allow_insecure_http", False)
        try:
            values["server"] = check_origin(values["server"], allow_insecure_http=is_allowed)
        except Invalid as error:
            raise Invalid(f"{error} (from {sources['server']})") from None
        if values.get("api_key") and _is_of_a_project(sources["server"], sources["api_key"]):
            # A folder that somebody else wrote must not have our key sent where it likes.
            raise Invalid(
                f"the key from {sources['api_key']} is not sent to {values['server']}, which only "
                f"{sources['server']} names: set ASYNCART_SERVER as well, or `asyncart login {values['server']}`"
            )
        if sources["entity"] == "default":
            values["entity"] = ""


def _is_of_a_project(source: str, of_key: str) -> bool:
    """Whether it is a project's file that says so, and the key comes from elsewhere."""
    return source != of_key and os.path.basename(source) == PROJECT_FILE


def default_home() -> str:
    import platformdirs

    return platformdirs.user_data_dir("asyncart", appauthor=False)


def user_file() -> Path:
    import platformdirs

    return Path(platformdirs.user_config_dir("asyncart", appauthor=False)) / "config.toml"


def project_file() -> Path | None:
    """`asyncart.toml` in the working directory or the nearest folder above it."""
    here = Path.cwd()
    return next((p for d in (here, *here.parents) if (p := d / PROJECT_FILE).is_file()), None)


def _file_layer(path: Path | None) -> tuple[str, dict[str, Any]]:
    if path is None or not path.is_file():
        return str(path), {}
    try:
        return str(path), tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not valid TOML: {error}; correct or remove it") from error


def _environment() -> tuple[str, dict[str, Any]]:
    # Only names of settings are read, so that other ASYNCART_* variables are left alone.
    found = {key: os.environ.get(f"ASYNCART_{key.upper()}") for key in FIELDS}
    return "environment", {key: value for key, value in found.items() if value}


def _converted(key: str, value: Any, source: str) -> Any:
    try:
        converted = msgspec.convert(_sized(key, value), FIELDS[key].type, strict=False)
        if isinstance(converted, int | float):
            _check_number(key, converted)
    except (msgspec.ValidationError, ValueError) as error:
        shown = "(secret)" if key in SECRETS else repr(value)
        raise Invalid(f"{key} = {shown} from {source}: {error}") from error
    if key in PATHS and _HALF_A_URL.match(converted):
        raise Invalid(f"{key} = {value!r} from {source}: a URL has two slashes, as in s3://bucket")
    if key in PATHS and "://" not in converted:
        # In a file, a path is relative to that file: it means the same from every folder below.
        base = os.path.dirname(source) if source.endswith(".toml") else ""
        return os.path.abspath(os.path.join(base, os.path.expanduser(converted)))
    return converted


def _check_number(key: str, number: float) -> None:
    if not math.isfinite(number) or number < 0:
        raise ValueError("it must be a number that is not negative")
    if not number and key in POSITIVE:
        raise ValueError("it must be more than 0")


_SIZE = re.compile(r"([0-9]+)(\.[0-9]+)? *([kmgt]?)(?:i?b)?", re.ASCII)
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _sized(key: str, value: Any) -> Any:
    if key.endswith("_bytes") and isinstance(value, str):
        return parse_size(value)
    return value


def parse_size(text: str) -> int:
    """Bytes of "500000", "64M", "20 GiB", "20GB" (powers of 1024). Raises ValueError."""
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError("write a size as in 500000, 64M or 20 GiB")
    whole, fraction, unit = found.groups()
    if not fraction:
        return int(whole) * UNITS.get(unit, 1)
    return int(float(f"{whole}{fraction}") * UNITS.get(unit, 1))
