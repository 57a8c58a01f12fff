"""Who the caller is, as the server sees it."""

from __future__ import annotations

from importlib import metadata

from ... import wire
from ..context import Caller
from ..routing import handler


@handler("about_me")
async def about_me(caller: Caller, request: wire.AboutMe) -> wire.Me:
    principal, store = caller.principal, caller.context.store
    return wire.Me(
        user=principal.user,
        entity=principal.user if principal.project is None else principal.project[0],
        key_id=principal.key_id,
        scopes=sorted(scope.value for scope in principal.scopes),
        project=None if principal.project is None else "/".join(principal.project),
        server_version=_version(),
        store=store.url,
        part_bytes=store.part_bytes,
    )


def _version() -> str:
    try:
        return metadata.version("asyncart")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"
