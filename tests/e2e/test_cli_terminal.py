"""On a terminal: bars, colours, questions; and none of that where it does not belong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
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
    shell: Shell,
    *arguments: str,
    typed: str = "",
    at_question: Callable[[], object] | None = None,
    columns: int = 100,
    **variables: str,
) -> tuple[int, str]:
    """The exit code, and what appeared on the terminal, of a command that has nothing else.

    `at_question` is called when the command has asked, before anything is typed.
    """
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
    seen = bytearray()
    if at_question is not None:
        while b"[y/N]" not in seen:
            seen += os.read(leader, 65536)
        at_question()
    os.write(leader, typed.encode())
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


@pytest.mark.parametrize(
    "rule",
    [
        ["data", "--keep-last", "1"],
        ["data", "--older-than", "0s"],
        ["data", "--all"],
        ["data:latest"],
    ],
    ids=lambda rule: rule[-1],
)
def test_rm_deletes_nothing_that_its_question_did_not_name(shell: Shell, rule: list[str]) -> None:
    """Another version is logged while the question stands: the rule would let another one go by then."""

    def put() -> None:
        shell.write("data/a", os.urandom(8))
        shell("put", "data")

    for _ in range(2):
        put()
    code, seen = on_terminal(shell, "rm", *rule, at_question=put, typed="y\n")
    assert code == 4
    assert "changed while you were asked; nothing was deleted" in seen
    assert [each["version"] for each in shell.json("ls", "data")] == ["v2", "v1", "v0"]
    code, seen = on_terminal(shell, "rm", *rule, typed="y\n")
    assert code == 0, seen


def test_many_versions_stand_above_the_question(shell: Shell) -> None:
    for number in range(5):
        shell.write("data/a", str(number))
        shell("put", "data")
    code, seen = on_terminal(shell, "rm", "data", "--keep-last", "1", typed="y\n")
    assert code == 0
    listed = [f"local/uncategorized/data:v{number}" for number in (3, 2, 1, 0)]
    asked, answered = seen.split("Delete these 4 versions? [y/N]: ")
    assert asked.splitlines()[-4:] == listed
    assert answered.splitlines()[-4:] == [f"{name}  deleted" for name in listed]


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
