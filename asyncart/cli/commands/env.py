"""`asyncart env`: what is in force here, where it came from, and whether it works."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...config import Resolved, Settings

PACKAGES = ("uvloop", "aiohttp", "anyio", "msgspec", "blake3", "pyfastcdc", "sqlalchemy")
ANSWER_WITHIN_S = 5.0  # a service that takes longer is down, for the eyes of a user


@click.command(cls=Command, short_help="Show settings, paths, versions, and what works.")
@pass_options
def env(options: Options) -> None:
    """Show every path and setting, where each came from, free space, versions, and what answers.

    Nothing is created or changed.
    """
    from ... import config
    from .. import runner, screen
    from ..words import size

    resolved = config.resolve(home=options.home, project=options.project, entity=options.entity)
    settings = resolved.settings

    async def probe() -> dict[str, str]:
        if settings.server:
            return {"server": await _catalog_state(options, settings)}
        return {
            "catalog": await _catalog_state(options, settings),
            "objects": await _store_state(settings),
        }

    states = runner.run(options, probe)
    places = {
        **(
            {"server": settings.server}
            if settings.server
            else {"catalog": settings.catalog_url, "objects": settings.objects_url}
        ),
        "stat cache": settings.statcache_path,
        "object cache": settings.cache_dir,
        "drafts": settings.drafts_dir,
        "downloads": os.path.abspath(settings.artifacts_dir),
        "user configuration": str(config.user_file()),
        "project configuration": str(config.project_file() or ""),
    }
    free = {name: _free_bytes(path) for name, path in places.items() if name in states}
    states = {name: _shown_url(state) for name, state in states.items()}
    places = {name: _shown_url(path) for name, path in places.items()}
    versions = _versions()
    if options.is_json:
        screen.print_json(
            {
                "settings": _settings_as_json(resolved),
                "paths": places,
                "free_bytes": free,
                "state": states,
                "versions": versions,
            }
        )
        return
    rows = [
        [name, _shown_url(str(value)), resolved.sources[name]]
        for name, value in _values(settings).items()
    ]
    screen.table(["SETTING", "VALUE", "FROM"], rows)
    screen.say("")
    remarks = {
        name: ", ".join(
            part
            for part in (
                states.get(name),
                f"{size(free[name] or 0)} free" if free.get(name) else "",
            )
            if part
        )
        for name in places
    }
    screen.table(
        ["PLACE", "PATH", "STATE"],
        [[name, path, remarks[name]] for name, path in places.items() if path],
    )
    screen.say("")
    screen.table(["PROGRAM", "VERSION"], [list(pair) for pair in versions.items()])


def _values(settings: Settings) -> dict[str, Any]:
    """Of a secret only whether there is one."""
    from ...config import SECRETS

    values = {name: getattr(settings, name) for name in type(settings).__struct_fields__}
    return {k: ("(set)" if v else "") if k in SECRETS else v for k, v in values.items()}


def _settings_as_json(resolved: Resolved) -> dict[str, Any]:
    return {
        name: {
            "value": _shown_url(value) if isinstance(value, str) else value,
            "from": resolved.sources[name],
        }
        for name, value in _values(resolved.settings).items()
    }


def _shown_url(text: str) -> str:
    """Without the password that a URL may contain."""
    import re

    return re.sub(r"(://[^/@:\s]*):[^@/\s]*@", r"\1:***@", text)


async def _catalog_state(options: Options, settings: Settings) -> str:
    import anyio

    from ...aio import Api

    if not settings.server and _is_absent(settings.catalog_url):
        return "not made yet"
    try:
        with anyio.fail_after(ANSWER_WITHIN_S):
            async with Api(
                entity=options.entity, project=options.project, home=options.home
            ) as api:
                projects = await api.projects()
    except Exception as error:
        return _failure(error)
    return f"ok, {len(projects)} project{'' if len(projects) == 1 else 's'}"


async def _store_state(settings: Settings) -> str:
    import anyio

    from ...stores import open_store

    if _is_absent(settings.objects_url):
        return "not made yet"
    try:
        with anyio.fail_after(ANSWER_WITHIN_S):
            store = await open_store(settings.objects_url)
            try:
                await store.list_page(limit=1)
            finally:
                await store.aclose()
    except Exception as error:
        return _failure(error)
    return "ok"


def _is_absent(place: str) -> bool:
    """A local path where there is nothing yet."""
    return "://" not in place and not os.path.exists(place)


def _failure(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_WITHIN_S:.0f} s"
    return f"{type(error).__name__}: {error}"


def _free_bytes(path: str) -> int | None:
    """Free space where the path is, or will be; None for a URL."""
    if "://" in path:
        return None
    import shutil

    place = os.path.abspath(path)
    while not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    return shutil.disk_usage(place).free


def _versions() -> dict[str, str]:
    import platform
    import sqlite3
    from importlib import metadata

    from ... import __version__

    found = {
        "asyncart": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "sqlite": sqlite3.sqlite_version,
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
