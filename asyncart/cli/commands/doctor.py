"""`asyncart doctor`: can asyncart work here, and what is special about this store?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...aio.findings import Diagnosis, Finding

COLOURS = {"ok": "32", "note": "36", "warning": "33", "failure": "1;31"}
NAME_WIDTH = 18


@click.command(cls=Command, short_help="Try out the store and this machine.")
@click.argument("url", required=False)
@pass_options
def doctor(options: Options, url: str | None) -> None:
    """Try out the store (URL, or the configured one), the catalog and this machine, and say what was found.

    What it needs in the store lies under a random prefix, and is removed. Exits with 0 if all of it can be
    used; notes and warnings do not change that.
    """
    from ... import config
    from ...aio.diagnose import diagnose
    from .. import runner, screen
    from ..failures import Differs

    settings = config.load(home=options.home, project=options.project, entity=options.entity)
    shown = _Report()

    async def work() -> Diagnosis:
        return await diagnose(settings, url, tell=None if options.is_json else shown.show)

    found = runner.run(options, work)
    if options.is_json:
        screen.print_json(_as_json(found))
    else:
        verdict = "can be used" if found.is_usable else "CANNOT be used like this"
        screen.say("")
        screen.say(f"{_public(found.store)} {verdict}")
    if not found.is_usable:
        raise Differs(found.exit_code)


class _Report:
    """A line per finding, as it comes in, below a heading per topic."""

    def __init__(self) -> None:
        self._topic = ""

    def show(self, finding: Finding) -> None:
        from .. import screen
        from ..words import printable

        if finding.topic != self._topic:
            self._topic = finding.topic
            screen.say_styled(finding.topic, "1")
        state = screen.styled(f"{finding.state:<8}", COLOURS[finding.state])
        line = f"  {state}{finding.name:<{NAME_WIDTH}}{printable(finding.text)}\n"
        screen.write(line, at_once=True)


def _as_json(found: Diagnosis) -> dict[str, object]:
    import msgspec

    return {
        "usable": found.is_usable,
        "exit_code": found.exit_code,
        "store": _public(found.store),
        "findings": msgspec.to_builtins(found.findings),
    }


def _public(store: str) -> str:
    """Without the password that a URL may contain."""
    from ...net.plane import public_url

    return public_url(store) if "://" in store else store
