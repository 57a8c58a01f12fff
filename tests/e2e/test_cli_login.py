"""`asyncart login` and `logout`: the key is checked, kept, used, and never shown."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from cli_shell import Shell
from services import Replica


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def log_in(shell: Shell, url: str, key: str, *more: str) -> subprocess.CompletedProcess[str]:
    return shell.run("login", url, "--key-stdin", *more, stdin=None, input=key + "\n")


def test_logged_in_the_commands_work_at_the_server(shell: Shell, asyncart_server: Replica) -> None:
    """From `login` to `logout`: nothing else has to be said, and the key appears nowhere."""
    url, key = asyncart_server.url, asyncart_server.key
    done = log_in(shell, url, key)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    kept = shell.home / "credentials.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    shell.write("data/a.txt", "hello")
    outputs = [done.stdout, shell("put", "data", "--name", "data", "--project", "cli")]
    assert shell("cat", "cli/data:latest/a.txt") == "hello"
    assert not (shell.home / "store").exists()
    env = shell.json("env")
    assert env["settings"]["server"] == {"value": url, "from": "asyncart login"}
    assert env["state"]["server"].startswith("ok")
    outputs += [str(env), shell("env"), shell("-vv", "ls")]
    secret = key.split("_")[2]
    assert all(secret not in output for output in outputs)
    shell("logout")
    assert not kept.exists()
    assert shell.json("env")["settings"]["server"]["value"] == ""
    assert "no login" in shell.error("logout", code=3)


def test_a_key_that_is_not_accepted_is_not_kept(shell: Shell, asyncart_server: Replica) -> None:
    """Mistyped: refused without asking anybody. Unknown to the server: denied. Neither is quoted."""
    key = asyncart_server.key
    mistyped = key[:-1] + ("0" if key[-1] != "0" else "1")
    done = log_in(shell, "https://nobody.invalid", mistyped)
    assert (done.returncode, done.stdout) == (2, "")
    assert "mistyped" in done.stderr
    assert mistyped not in done.stderr
    from asyncart.apikey import new_key

    unknown = new_key().text
    done = log_in(shell, asyncart_server.url, unknown)
    assert (done.returncode, done.stdout) == (5, "")
    assert unknown not in done.stderr
    assert not (shell.home / "credentials.json").exists()


def test_the_key_of_the_environment_is_not_shown(shell: Shell, asyncart_server: Replica) -> None:
    """Only that there is one, and where it came from."""
    key = asyncart_server.key
    environment = shell.environment | {
        "ASYNCART_SERVER": asyncart_server.url,
        "ASYNCART_API_KEY": key,
    }
    done = shell.run("env", env=environment)
    assert done.returncode == 0, done.stderr
    assert key not in done.stdout + done.stderr
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("api_key")]
    assert row == ["api_key", "(set)", "environment"]


def test_without_a_terminal_the_key_comes_from_stdin(shell: Shell) -> None:
    assert "--key-stdin" in shell.error("login", "https://nobody.invalid", code=2)
    assert "plain http" in shell.error("login", "http://art.example.com", code=2)


def test_a_server_that_is_down_is_waited_for_aloud(shell: Shell) -> None:
    """Before the end of the patience the user sees why nothing happens; Ctrl-C then ends it as ever."""
    with socket.socket() as bound:  # nobody listens, and nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        waiting = shell.start("ls", env=shell.environment | {"ASYNCART_SERVER": url})
        assert waiting.stderr is not None
        said = waiting.stderr.readline().decode()
        assert said.startswith(f"asyncart: {url}: no answer to ")
        assert "Connection refused" in said
        assert "; trying again, for up to 1" in said
        waiting.send_signal(signal.SIGINT)
        _, rest = waiting.communicate(timeout=60)
    assert (waiting.returncode, rest.decode().startswith("asyncart: interrupted")) == (130, True)
