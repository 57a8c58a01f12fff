"""What `doctor` finds out: one finding per question, told as soon as it is known.

A check that fails, or gets no answer in time, is a finding too: nothing here raises for the state of the
world, so that one broken thing does not hide the next one.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Awaitable, Callable

import anyio
import msgspec

from ..errors import AsyncartError, Unavailable

ANSWER_WITHIN_S = 30.0


class State(enum.StrEnum):
    OK = "ok"
    NOTE = "note"  # good to know; nothing depends on it
    WARNING = "warning"  # works, and will hurt one day
    FAILURE = "failure"  # cannot be used like this


class Finding(msgspec.Struct, frozen=True):
    """`topic` groups them, `value` is the answer for machines (a number, a flag, a name)."""

    topic: str
    name: str
    state: State
    text: str
    value: str | float | bool | None = None


class Diagnosis(msgspec.Struct, frozen=True):
    """All findings. `exit_code` is that of the first failure's class, 0 where everything can be used."""

    store: str
    findings: tuple[Finding, ...]
    exit_code: int = 0

    @property
    def is_usable(self) -> bool:
        return self.exit_code == 0


Tell = Callable[[Finding], object]


class Checkup:
    """Collects findings under one topic after the other."""

    def __init__(self, tell: Tell | None = None) -> None:
        self.findings: list[Finding] = []
        self.exit_code = 0
        self.topic = ""
        self._tell = tell

    def say(
        self, state: State, name: str, text: str, value: str | float | bool | None = None
    ) -> None:
        finding = Finding(self.topic, name, state, text, value)
        self.findings.append(finding)
        if self._tell is not None:
            self._tell(finding)

    def is_ok(self, name: str) -> bool:
        """Whether this was asked, under the topic of now, and all is well."""
        return any(
            (finding.topic, finding.name, finding.state) == (self.topic, name, State.OK)
            for finding in self.findings
        )

    def ok(self, name: str, text: str, value: str | float | bool | None = None) -> None:
        self.say(State.OK, name, text, value)

    def note(self, name: str, text: str, value: str | float | bool | None = None) -> None:
        self.say(State.NOTE, name, text, value)

    def warn(self, name: str, text: str, value: str | float | bool | None = None) -> None:
        self.say(State.WARNING, name, text, value)

    def fail(self, name: str, text: str, exit_code: int = Unavailable.exit_code) -> None:
        self.exit_code = self.exit_code or exit_code
        self.say(State.FAILURE, name, text)

    def answer(self, name: str, is_yes: bool, yes: str, no: str, *, or_else: State) -> None:
        """A question whose answer is yes or, not quite as good, no."""
        self.say(State.OK if is_yes else or_else, name, yes if is_yes else no, is_yes)

    async def check(
        self,
        name: str,
        work: Callable[[], Awaitable[None] | None],
        *,
        within_s: float = ANSWER_WITHIN_S,
        state: State = State.FAILURE,
    ) -> bool:
        """Run one check, which says what it finds; False if it failed, which is said here."""
        try:
            with anyio.fail_after(within_s):
                found = work()
                if inspect.isawaitable(found):
                    await found
        except TimeoutError:
            self._failed(name, f"no answer within {within_s:.0f} s", state, Unavailable.exit_code)
        except AsyncartError as error:
            self._failed(name, str(error), state, error.exit_code)
        except OSError as error:
            self._failed(name, error.strerror or str(error), state, Unavailable.exit_code)
        else:
            return True
        return False

    def _failed(self, name: str, text: str, state: State, exit_code: int) -> None:
        if state is State.FAILURE:
            self.fail(name, text, exit_code)
        else:
            self.say(state, name, text)
