"""The suites, and which rows a list of names on the command line means.

A suite is a package `bench.NAME` with a `SUITE`: add the package and its name here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from .case import Row, Scenario
from .peers.peer import Peer

NAMES = ("embedded", "s3", "server")


@dataclass(frozen=True)
class Suite:
    name: str
    scenarios: Sequence[Scenario]
    peers: Callable[[Path], list[Peer]]  # given the folder where peers may be installed

    def rows(self) -> list[Row]:
        return [row for scenario in self.scenarios for row in scenario.rows]

    def select(self, names: Iterable[str]) -> frozenset[str]:
        """Rows by their own name or their scenario's; all of them for none. KeyError names the unknown."""
        chosen: set[str] = set()
        by_scenario = {scenario.name: scenario.rows for scenario in self.scenarios}
        known = {row.name for row in self.rows()}
        for name in names:
            if name in by_scenario:
                chosen |= {row.name for row in by_scenario[name]}
            elif name in known:
                chosen.add(name)
            else:
                raise KeyError(name)
        return frozenset(chosen or known)


def load(name: str) -> Suite:
    suite: Suite = import_module(f"bench.{name}").SUITE
    return suite
