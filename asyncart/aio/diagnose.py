"""Say whether asyncart can work here, and what is special about this store and this machine.

Promised: every question is answered within a time limit; what is tried out in the store lies under a random
prefix and is removed; nothing is created at home. Refused: guessing. A flag says what the store did a
moment ago, not what its documentation says.
"""

from __future__ import annotations

from ..config import Settings
from .diagnose_machine import check_catalog, check_machine
from .diagnose_server import check_server
from .diagnose_store import check_store
from .findings import Checkup, Diagnosis, Tell


async def diagnose(
    settings: Settings, url: str | None = None, *, tell: Tell | None = None
) -> Diagnosis:
    """Look at the store (`url`, or the configured one), at the catalog and at this machine; where a server
    is configured, at that instead of store and catalog.

    `tell` is called with each finding as soon as it is known. Raises nothing for what is broken.
    """
    checkup = Checkup(tell)
    if settings.server and url is None:
        checkup.topic = "server"
        await check_server(settings, checkup)
        checkup.topic = "machine"
        await check_machine(settings, checkup, needs_checksums=False)
        return Diagnosis(settings.server, tuple(checkup.findings), checkup.exit_code)
    store = url or settings.objects_url
    checkup.topic = "store"
    await check_store(store, checkup)
    checkup.topic = "catalog"
    await check_catalog(settings, checkup)
    checkup.topic = "machine"
    await check_machine(settings, checkup, needs_checksums=store.startswith("s3://"))
    return Diagnosis(store, tuple(checkup.findings), checkup.exit_code)
