"""`asyncart gc`: give back the space of what no version needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...aio import Api, GarbageReport


@click.command(cls=Command, short_help="Give back the space of what no version needs.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@pass_options
def gc(options: Options, dry_run: bool) -> None:
    """Delete stored bytes that no version reaches. Safe at any time, also while others write."""
    import msgspec

    from .. import runner, screen

    async def work(api: Api) -> GarbageReport:
        return await api.collect(dry_run=dry_run)

    report = runner.with_api(options, work)
    if options.is_json:
        screen.print_json(msgspec.to_builtins(report))
    else:
        screen.say(summary(report))


def summary(report: GarbageReport) -> str:
    from ..words import count, size

    if report.is_dry_run:
        unused = report.deleted_objects + report.waiting_objects
        return f"{count(unused, 'object')} not needed by any version"
    parts = [
        f"{count(report.deleted_objects, 'object')} deleted, {size(report.freed_bytes)} freed",
        report.waiting_objects and f"{count(report.waiting_objects, 'object')} later",
        report.aborted_uploads and f"{count(report.aborted_uploads, 'upload')} aborted",
        report.temp_files and f"{count(report.temp_files, 'temporary file')} removed",
    ]
    return ", ".join(part for part in parts if part)
