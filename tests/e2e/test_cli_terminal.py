"""On a terminal: bars, colours, questions; and none of that where it does not belong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_shell import COMMAND, Shell

if sys.platform == "win32":
    pytest.skip("pseudo-terminals of Unix", allow_module_level=True)

import pty
import termios

BIG = 256 << 20


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def on_terminal(
    shell: Shell, *arguments: str, typed: str = "", columns: int = 100, **variables: str
) -> tuple[int, str]:
    """The exit code, and what appeared on the terminal, of a command that has nothing else."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (40, columns))
    environment = shell.environment | {"TERM": "xterm-256color"} | variables
    for name in ("NO_COLOR", "COLUMNS", "FORCE_COLOR"):
        if name not in variables:
            environment.pop(name, None)
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=shell.folder,
        env=environment,
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    os.write(leader, typed.encode())
    seen = bytearray()
    try:
        while block := os.read(leader, 65536):
            seen += block
    except OSError:  # EIO: the last one who had it open has ended
        pass
    os.close(leader)
    return process.wait(timeout=60), seen.decode().replace("\r\n", "\n")


def test_a_long_put_shows_a_bar_that_is_gone_at_the_end(shell: Shell) -> None:
    shell.write("asyncart.toml", "threads = 1\n")
    with open(shell.write("data/big.bin", b""), "wb") as file:
        for _ in range(BIG >> 24):
            file.write(os.urandom(16 << 20))
    code, seen = on_terminal(shell, "put", "data")
    assert code == 0
    assert "of 256 MiB" in seen
    assert "\x1b[?25l" in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")  # the cursor is back
    assert seen.rstrip().endswith("data:v0  new  1 file  256 MiB")
    _, quiet = on_terminal(shell, "get", "data", "out", "--no-progress")
    assert "\x1b" not in quiet


def test_rm_asks_on_a_terminal(shell: Shell) -> None:
    shell.write("data/a", "a")
    shell("put", "data")
    code, seen = on_terminal(shell, "rm", "data:v0", typed="n\n")
    assert code == 5
    assert "Delete local/uncategorized/data:v0? [y/N]" in seen
    assert "nothing was changed" in seen
    code, seen = on_terminal(shell, "rm", "data:v0", typed="y\n")
    assert code == 0
    assert "deleted" in seen


def test_nothing_is_cut_on_a_narrow_terminal(shell: Shell) -> None:
    name = "x" * 150
    shell.write(f"data/{name}", "a")
    shell("put", "data")
    _, seen = on_terminal(shell, "ls", "data:v0", columns=60)
    assert seen.count("x") == 150


def test_no_color_is_respected(shell: Shell) -> None:
    shell.write("data/a", "a")
    shell("put", "data")
    shell.write("data/a", "b")
    shell("put", "data")
    _, coloured = on_terminal(shell, "diff", "data:v0", "data:v1")
    _, plain = on_terminal(shell, "diff", "data:v0", "data:v1", NO_COLOR="1")
    assert "\x1b[33m~ a" in coloured
    assert "\x1b" not in plain
    assert "~ a" in plain
    for arguments in (["ls"], ["show", "data"]):
        _, seen = on_terminal(shell, *arguments, NO_COLOR="1")
        assert "\x1b[3" not in seen  # no colour; bold is none
