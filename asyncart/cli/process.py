"""One process, one command: from the arguments to the exit code.

Everything that ends a command arrives here as an exception and becomes an exit code and at most one line
on stderr. A reader of our stdout that has gone away is no error worth a word.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from .failures import Interrupted, report
from .options import Options, ReaderGone

BROKEN_PIPE = 141  # 128 + SIGPIPE: what a shell reports for a program that does not catch it


def run_command_line(arguments: Sequence[str]) -> int:
    """Run the command and give the exit code of the process."""
    from .root import cli
    from .screen import answering

    options = Options()
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a path that the terminal cannot show is no reason to fail
            reconfigure(errors="backslashreplace")
    try:
        code = cli.main(list(arguments), prog_name="asyncart", standalone_mode=False, obj=options)
        with answering():
            sys.stdout.flush()
    except (BrokenPipeError, ReaderGone):
        return _leave_broken_pipe()
    except click.ClickException as error:
        options.is_json |= "--json" in arguments  # it may stand behind what was not understood
        return _usage_error(error, options)
    except (click.Abort, EOFError, KeyboardInterrupt):
        return report(Interrupted(130), options)
    except Exception as error:
        code = report(error, options)
        return _flush_or_leave(code)
    return code if isinstance(code, int) else 0


def _open_standard_streams() -> None:
    """Whoever started us may have closed them: what is written there goes nowhere then.

    Left closed, their numbers would be given to the event loop's own files, which aborts the process.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if fd == 0 else "w"
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives


def _flush_or_leave(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _leave_broken_pipe()
    except (
        OSError
    ):  # a full disk behind stdout: reported already, or not worth more than the first error
        _silence_stdout()
    return code


def _leave_broken_pipe() -> int:
    _silence_stdout()
    return BROKEN_PIPE


def _silence_stdout() -> None:
    """What is still buffered goes nowhere: Python would flush it at exit and complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_error(error: click.ClickException, options: Options) -> int:
    if options.is_json:
        from ..errors import Invalid

        return report(Invalid(error.format_message()), options)
    with contextlib.suppress(BrokenPipeError):
        error.show()
    return error.exit_code
