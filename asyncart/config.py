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

from .errors import Invalid

PROJECT_FILE = "asyncart.toml"
CACHE_BYTES = 10 << 30
MEMORY_BYTES = 256 << 20  # promise 5 of the design; the embedded cases of the bench peak far below


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, resolved. Paths are absolute; sizes are bytes; times are seconds.

    `home` is the one root for everything that asyncart writes by itself. `objects` and `catalog` are
    URLs or paths (default: below `home`). `artifacts_dir` is where `download()` puts artifacts when it is given no folder.

    `cache_bytes` is what the cache for objects of remote stores may take of the disk; 0 turns it off. The
    default is 10 GiB: a disk must not be filled by what nobody asked for, and this fits beside the data on
    the small machines that gain most (the 14 GB of a CI runner), yet holds 160 packs, that is a million
    files of 10 KB. The disk's last 5 % and last GiB are left alone in any case. Filling it costs 0.2 CPU
    seconds per GiB and no time (512 MiB over loopback: 0.83 s with and without); from it the same came in
    0.47 s, and through a real network the difference is that between the network and the disk.
    """

    home: str
    objects: str = ""
    catalog: str = ""
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
PATHS = ("home", "objects", "catalog")
POSITIVE = ("memory_bytes", "stall_timeout_s")


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
    return Resolved(Settings(**values), sources)


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
    # Only names of settings are read, so that other ASYNCART_* variables (API keys) are left alone.
    found = {key: os.environ.get(f"ASYNCART_{key.upper()}") for key in FIELDS}
    return "environment", {key: value for key, value in found.items() if value}


def _converted(key: str, value: Any, source: str) -> Any:
    try:
        converted = msgspec.convert(_sized(key, value), FIELDS[key].type, strict=False)
        if isinstance(converted, int | float):
            _check_number(key, converted)
    except (msgspec.ValidationError, ValueError) as error:
        raise Invalid(f"{key} = {value!r} from {source}: {error}") from error
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
