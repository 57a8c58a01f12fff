"""Ctrl-C and SIGTERM: within two seconds, with the right code, nothing left behind, and the next run works."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_shell import Shell

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of Unix")

BIG = 384 << 20  # with one thread about a second of work, and an event every 0.1 s
LIMIT_S = 2.0
SLACK_S = 1.0  # for a machine that is busy with other tests


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    shell.write("asyncart.toml", "threads = 1\n")
    return shell


def grow(shell: Shell) -> Path:
    block = os.urandom(16 << 20)
    path = shell.write("data/small.txt", "small").with_name("big.bin")
    with open(path, "wb") as file:
        for number in range(BIG // len(block)):
            file.write(number.to_bytes(8, "big") + os.urandom(1 << 20) + block[8 + (1 << 20) :])
    return path.parent


def wait_for_bytes(process: subprocess.Popen[bytes], stages: set[str]) -> dict[str, object]:
    """Until the work is in its middle, as its own progress tells."""
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line)
        if event["stage"] in stages and 0 < event["bytes"] < BIG:
            return dict(event)
    raise AssertionError("it ended before it could be interrupted")


def ended(process: subprocess.Popen[bytes], *, limit_s: float = LIMIT_S + SLACK_S) -> int:
    began_s = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - began_s < limit_s
    return process.returncode


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_put_leaves_nothing_and_can_be_repeated(
    shell: Shell, number: int, code: int
) -> None:
    grow(shell)
    process = shell.start("put", "data", "--json", "--progress")
    wait_for_bytes(process, {"read", "upload"})
    process.send_signal(number)
    assert ended(process) == code
    assert list(shell.temps()) == []
    assert shell.json("ls") == []
    assert shell("put", "data").startswith("data:v0  new  2 files")
    assert shell("verify", "data") == ""


def test_an_interrupted_get_leaves_nothing_and_can_be_repeated(shell: Shell) -> None:
    data = grow(shell)
    shell("put", "data")
    process = shell.start("get", "data", "out", "--json", "--progress")
    wait_for_bytes(process, {"download"})
    process.send_signal(signal.SIGINT)
    assert ended(process) == 130
    assert list(shell.temps()) == []
    assert not (shell.folder / "out/big.bin").exists()
    assert shell("get", "data", "out") == "out\n"
    assert (shell.folder / "out/small.txt").read_bytes() == (data / "small.txt").read_bytes()
    assert shell("verify", "data", "out") == ""


def test_a_reader_that_does_not_read_cannot_hold_it(shell: Shell) -> None:
    shell.write("data/some.bin", os.urandom(8 << 20))
    shell("put", "data")
    process = shell.start("cat", "data:v0/some.bin")
    assert process.stdout is not None
    process.stdout.read(1)  # it is writing; the pipe is full from now on
    process.send_signal(signal.SIGINT)
    began_s = time.monotonic()
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - began_s < LIMIT_S + SLACK_S
    process.communicate()


def test_the_second_signal_does_not_wait(shell: Shell) -> None:
    shell.write("data/some.bin", os.urandom(8 << 20))
    shell("put", "data")
    process = shell.start("cat", "data:v0/some.bin")
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    began_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    # While it leaves the second one has the system's own effect, which shells report as 130 as well.
    assert process.wait(timeout=60) in (130, -signal.SIGINT)
    assert time.monotonic() - began_s < 1.0
    process.communicate()


def test_an_interrupted_demo_removes_its_folder(shell: Shell) -> None:
    process = shell.start("demo")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"1 "):
            break
    process.send_signal(signal.SIGINT)
    assert ended(process) == 130
    assert not list(shell.home.glob("demo-*"))
