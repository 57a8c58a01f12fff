"""Whether the server of the settings answers, and whom it takes us for. Nothing is stored there."""

from __future__ import annotations

import time

from ..config import Settings
from ..engine.tasks import Threads
from .findings import Checkup


async def check_server(settings: Settings, checkup: Checkup) -> None:
    await checkup.check("server", lambda: _ask(settings, checkup))


async def _ask(settings: Settings, checkup: Checkup) -> None:
    from .served import Served

    started = time.perf_counter()
    served = await Served.open(settings, Threads(1))
    took_ms = (time.perf_counter() - started) * 1000
    try:
        me = served.me
        checkup.ok("server", f"{settings.server}: answers; asyncart {me.server_version}")
        checkup.ok("latency", f"{took_ms:.1f} ms to connect and to get an answer", took_ms)
        rights = ", ".join(me.scopes) + (f", in {me.project} only" if me.project else "")
        checkup.ok("key", f"{me.user} (key {me.key_id or 'none'}): {rights}", me.user)
        checkup.ok("entity", f"{settings.entity or me.entity}", settings.entity or me.entity)
        checkup.ok("objects", f"in {me.store}", me.store)
    finally:
        await served.aclose()
