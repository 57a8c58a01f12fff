"""`asyncart verify`: are the bytes still the ones that were logged?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ...errors import Corrupt
from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...aio import Api, Verification


@click.command(cls=Command, short_help="Check stored bytes, or a folder.")
@click.argument("ref")
@click.argument("folder", metavar="[DIR]", required=False)
@pass_options
def verify(options: Options, ref: str, folder: str | None) -> None:
    """Read every stored byte of REF and check it; with DIR, compare that folder with REF instead.

    Exits with 0 if all is well, 1 if the folder differs, 7 if stored bytes are damaged. Logging the same
    content again heals a damaged version.
    """
    from .. import runner, screen
    from ..failures import Differs
    from ..words import count

    async def work(api: Api) -> tuple[str, Verification]:
        artifact = await api.artifact(ref)
        return artifact.name, await artifact.verify(folder)

    name, report = runner.with_api(options, work)
    findings = {
        "missing": report.missing,
        "different": report.different,
        "extra": report.extra,
        "damaged": report.damaged,
    }
    if options.is_json:
        lists = {kind: list(paths) for kind, paths in findings.items()}
        screen.print_json({"name": name, "ok": report.is_ok, "checked": report.checked} | lists)
    else:
        for kind, paths in findings.items():
            for path in paths:
                screen.say(f"{kind}  {path}")
        verdict = "all well" if report.is_ok else count(sum(map(len, findings.values())), "problem")
        screen.tell(options, f"{name}: {count(report.checked, 'file')} checked, {verdict}")
    if not report.is_ok:
        raise Differs(Corrupt.exit_code if report.damaged else 1)
