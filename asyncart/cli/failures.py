"""Errors, for people: one line on stderr, and the exit code that belongs to the class."""

from __future__ import annotations

import sys

from ..errors import AsyncartError, TransferError
from .options import Options
from .words import printable

SHOWN_FAILURES = 10  # of a transfer; the others with -v


class Interrupted(Exception):
    """The user, or the system, wants the command to end: SIGINT gives 130, SIGTERM 143."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("interrupted")
        self.exit_code = exit_code


class Differs(Exception):
    """The answer of `diff` and `verify` is no. It was printed; only the exit code is left to give."""

    def __init__(self, exit_code: int = 1) -> None:
        super().__init__("differs")
        self.exit_code = exit_code


def report(error: BaseException, options: Options) -> int:
    """Say what went wrong on stderr; returns the exit code."""
    if isinstance(error, Differs):
        return error.exit_code
    if isinstance(error, Interrupted):
        sys.stderr.write(
            "asyncart: interrupted; nothing was left behind, run it again to continue\n"
        )
        return error.exit_code
    code = exit_code(error)
    if options.verbosity >= 2:
        import traceback

        traceback.print_exception(error)
    if options.is_json:
        import json

        sys.stderr.write(json.dumps(as_json(error, code)) + "\n")
        return code
    sys.stderr.write(f"asyncart: {type(error).__name__}: {printable(one_line(error))}\n")
    if isinstance(error, TransferError):
        shown = len(error.failures) if options.verbosity else SHOWN_FAILURES
        for failure in error.failures[:shown]:
            sys.stderr.write(f"  {type(failure).__name__}: {printable(one_line(failure))}\n")
    if not isinstance(error, (AsyncartError, OSError)) and options.verbosity < 2:
        sys.stderr.write("asyncart: this is a bug; -vv shows where it happened\n")
    return code


def exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, AsyncartError) else 1


def as_json(error: BaseException, code: int) -> dict[str, object]:
    return {
        "error": error.code if isinstance(error, AsyncartError) else "internal",
        "class": type(error).__name__,
        "message": one_line(error),
        "exit_code": code,
    }


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split("\n")) or type(error).__name__
