"""`asyncart gc`: give back the space of what no version needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...aio import Api, GarbageReport


@click.command(cls=Command, short_help="Give back the space of what no version needs.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--no-compact", is_flag=True, help="Leave objects alone that are mostly dead.")
@pass_options
def gc(options: Options, dry_run: bool, no_compact: bool) -> None:
    """Delete versions whose time to live is over, and stored bytes that no version reaches. Safe at any
    time, also while others read and write.

    Objects of which little is used are compacted: that little is copied, and the next gc deletes them.
    """
    import msgspec

    from .. import runner, screen

    async def work(api: Api) -> GarbageReport:
        return await api.collect(dry_run=dry_run, compact=not no_compact)

    report = runner.with_api(options, work)
    if options.is_json:
        screen.print_json(msgspec.to_builtins(report))
        return
    for line in lines(report):
        screen.say(line)


def lines(report: GarbageReport) -> list[str]:
    would = "would be " if report.is_dry_run else ""
    told = [f"{name}  expired, {would}deleted" for name in report.expired_versions]
    told += [f"{name}  {would}rewritten" for name in report.rewritten_versions]
    return [*told, summary(report), *compaction(report)]


def summary(report: GarbageReport) -> str:
    from ..words import count, size

    if report.is_dry_run:
        unused = report.deleted_objects + report.waiting_objects
        nbytes = report.freed_bytes + report.waiting_bytes
        return f"{count(unused, 'object')} not needed by any version, {size(nbytes)}"
    parts = [
        f"{count(report.deleted_objects, 'object')} deleted, {size(report.freed_bytes)} freed",
        report.waiting_objects
        and f"{count(report.waiting_objects, 'object')} ({size(report.waiting_bytes)}) later",
        report.aborted_uploads and f"{count(report.aborted_uploads, 'upload')} aborted",
        report.temp_files and f"{count(report.temp_files, 'temporary file')} removed",
    ]
    return ", ".join(part for part in parts if part)


def compaction(report: GarbageReport) -> list[str]:
    from ..words import count, size

    if not report.compacted_objects and not report.copied_bytes:
        return []
    gain = size(max(0, report.compacted_bytes - report.copied_bytes))
    return [
        f"{count(report.compacted_objects, 'object')} mostly dead: {size(report.copied_bytes)} of "
        f"{size(report.compacted_bytes)} {'would be ' if report.is_dry_run else ''}copied; "
        f"the next gc gives back {gain}"
    ]
