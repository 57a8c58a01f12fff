"""`asyncart bench`: how fast is this store, and what is the limit?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ...errors import Invalid
from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...aio.speed import Speed, SpeedReport

NAME_WIDTH = 20


@click.command(cls=Command, short_help="Measure the store and this machine.")
@click.argument("url", required=False)
@click.option(
    "--size", metavar="BYTES", default="256M", show_default=True, help="In large objects."
)
@click.option(
    "--files",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="Small objects, 10 KiB.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=60,
    show_default=True,
    help="No new request is made after so many seconds.",
)
@pass_options
def bench(options: Options, url: str | None, size: str, files: int, seconds: float) -> None:
    """Measure the store (URL, or the configured one), hashing and the disk, and name the bottleneck.

    What it stores lies under a random prefix, and is removed.
    """
    from ... import config
    from ...aio.speed import measure_speed
    from .. import runner, screen

    try:
        size_bytes = config.parse_size(size)
    except ValueError as error:
        raise Invalid(f"--size {size}: not a size; use one like 64M or 2G") from error
    settings = config.load(home=options.home, project=options.project, entity=options.entity)

    async def work() -> SpeedReport:
        return await measure_speed(
            settings,
            url,
            size_bytes=size_bytes,
            files=files,
            seconds=seconds,
            tell=None if options.is_json else _show,
        )

    report = runner.run(options, work)
    if options.is_json:
        screen.print_json(_as_json(report))
        return
    screen.say("")
    screen.say(report.bottleneck)


def _show(speed: Speed) -> None:
    from .. import screen
    from ..words import size

    if speed.name.startswith("small"):
        rate = f"{speed.requests_per_s:,.0f} objects/s"
        amount = f"{speed.requests:,} objects of 10 KiB"
    else:
        rate, amount = f"{size(speed.bytes_per_s)}/s", size(speed.bytes)
    busy = f", CPU {speed.cpu_s / speed.seconds:.0%}" if speed.requests else ""
    line = f"{speed.name:<{NAME_WIDTH}}{rate:>16}  {amount}, {speed.seconds:.1f} s{busy}\n"
    screen.write(line, at_once=True)


def _as_json(report: SpeedReport) -> dict[str, object]:
    return {
        "store": report.store,
        "bottleneck": report.bottleneck,
        "speeds": [
            {
                "name": speed.name,
                "bytes": speed.bytes,
                "seconds": speed.seconds,
                "requests": speed.requests,
                "cpu_seconds": speed.cpu_s,
                "bytes_per_second": speed.bytes_per_s,
                "requests_per_second": speed.requests_per_s,
            }
            for speed in report.speeds
        ],
    }
