"""Giving back the space of what nothing reaches any more."""

from __future__ import annotations

import msgspec

from ... import wire
from ...aio import collect
from ...engine.tasks import Threads
from ...net.budget import process_budget
from ..context import Caller
from ..routing import handler


@handler("collect_garbage")
async def collect_garbage(caller: Caller, request: wire.CollectGarbage) -> wire.Garbage:
    context = caller.context
    catalog, store, dry_run = context.catalog, context.store, request.dry_run
    report = await collect.collect_from(catalog, store, dry_run=dry_run)
    if request.compact:
        report = await collect.compacted(
            report, catalog, store, process_budget(), Threads(), dry_run=dry_run
        )
    return wire.Garbage(report=msgspec.to_builtins(report))
