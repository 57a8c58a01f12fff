"""The command line: `asyncart put`, `get`, `ls`, ...; `main` is the console entry point.

Promised: data on stdout, everything else on stderr; `--json` for machines on every command; one line per
error and an exit code per class of error (`errors.exit_code`; 1 is "they differ" for `diff` and `verify`);
no question is asked without a terminal; Ctrl-C leaves nothing behind and takes two seconds at most.

Each command is a few lines over `asyncart.aio`. What is heavy (the engine, rich, asyncio) is imported by
the command that needs it, so that `asyncart --help` costs little more than starting Python.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        from .process import run_command_line

        code = run_command_line(sys.argv[1:])
    except KeyboardInterrupt:  # before there was an event loop, or on Windows
        code = 130
    sys.exit(code)
