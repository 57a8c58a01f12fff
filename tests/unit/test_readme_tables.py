"""README's tables of settings and options say what the code says: every one of them, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
import yaml

from asyncart import config
from asyncart.aio import Api
from asyncart.cli.commands.server import server
from asyncart.cli.options import common_options
from asyncart.cli.root import cli
from asyncart.server.accounts.service import SECRET_VARIABLE
from asyncart.server.gate import OPEN_PATHS
from asyncart.server.options import ServerOptions
from bench.__main__ import main as bench

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMON = {name for each in common_options(is_hidden=True) for name in each.opts}
OPTIONS = [each for each in server.params if not COMMON & set(each.opts)]
WITHOUT_DEFAULT = {"home", "server", "api_key"}  # in README: what they are taken from


def table(heading: str) -> list[list[str]]:
    """The cells of the rows below the line that begins with `heading`."""
    _, _, rest = README.partition(f"\n{heading}")
    lines = rest.partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


SETTINGS = table("| setting |")
SERVER = table("| option | environment |")


def test_there_is_a_row_for_each_setting_and_for_nothing_else() -> None:
    named = [name for row in SETTINGS for name in quoted(row[0])]
    assert len(named) == len(set(named))
    assert set(named) == set(config.FIELDS)


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row[0])
def test_the_default_of_a_setting_is_that_of_the_code(row: list[str], tmp_path: Path) -> None:
    names, said = quoted(row[0]), quoted(row[2]) or [row[2]]
    for name, default in zip(names, said, strict=True):
        field = config.FIELDS[name]
        made = config.Settings(home="HOME")
        if name in ("objects", "catalog"):  # where they are if they are not set
            assert getattr(made, f"{name}_url") == default
        elif name in WITHOUT_DEFAULT or name in ("threads", "workers"):
            assert field.default in ("", 0, msgspec.NODEFAULT)  # README says what that means
        elif name.endswith("_bytes"):
            assert config.parse_size(default) == field.default
        else:
            assert default == str(field.default).removesuffix(".0").lower()


@pytest.mark.parametrize("name", sorted(config.FIELDS))
def test_a_setting_is_a_keyword_of_api(name: str, tmp_path: Path) -> None:
    values = {"home": tmp_path / "h", "server": "http://127.0.0.1:1", "allow_insecure_http": True}
    value = values.get(name, 7 if isinstance(config.FIELDS[name].default, int | float) else "/x")
    keyword = "store" if name == "objects" else name
    found = getattr(Api(**{"home": tmp_path, keyword: value})._settings, name)
    assert str(found).removesuffix(".0") == str(value)


def test_there_is_a_row_for_each_option_of_the_server_and_for_nothing_else() -> None:
    named = [name for row in SERVER for name in quoted(row[0])]
    assert sorted(named) == sorted(each.opts[0] for each in OPTIONS)


def variables(cell: str) -> Iterator[str]:
    """`ASYNCART_SERVER_HOST`, `_PORT`: the second one is short for ASYNCART_SERVER_PORT."""
    for name in quoted(cell):
        yield name if name.startswith("ASYNCART_") else f"ASYNCART_SERVER{name}"


@pytest.mark.parametrize("row", SERVER, ids=lambda row: row[0] or "(environment only)")
def test_an_option_of_the_server_has_this_variable_and_default(row: list[str]) -> None:
    names, environment = quoted(row[0]), list(variables(row[1]))
    if not names:
        assert environment == [SECRET_VARIABLE]
        return
    options = {name: each for each in OPTIONS for name in each.opts}
    assert environment == [options[name].envvar for name in names]
    plain = ServerOptions(home="HOME")
    for name, said in zip(names, row[2].split(", "), strict=True):
        default = getattr(plain, str(options[name].name))
        if said.startswith("below"):
            found = getattr(plain, f"{name.removeprefix('--')}_url")
            assert default == ""
            assert found.startswith(said.removeprefix("below ").replace("`ASYNCART_HOME`", "HOME"))
        else:
            shown = {False: "off", (): "", "": ""}.get(default, default)
            assert said == (f"{shown:g}" if isinstance(shown, float) else str(shown))


def commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from commands(command)


def flags_of(command: click.Command) -> set[str]:
    return {name for option in command.params for name in option.opts}


OF_ANY_COMMAND = set.union(*map(flags_of, [cli, bench, *commands(cli)]), {"--help"})


def code() -> Iterator[str]:
    """README's quoted and indented code, shell or not."""
    fences = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    yield from re.findall(r"^    (.+)$", fences, flags=re.MULTILINE)
    yield from quoted(re.sub(r"^    .+$", "", fences, flags=re.MULTILINE))


def test_every_command_that_is_quoted_exists_with_its_options() -> None:
    """Of `asyncart rm --keep-last`: of that command; `--drain-s` alone: of any."""
    checked = 0
    for text in code():
        if text.startswith("docker "):
            continue
        known = OF_ANY_COMMAND
        for names, below in re.findall(r"\basyncart ([a-z|]+)(?: ([a-z|]+))?", text):
            checked += 1
            for name in names.split("|"):
                assert name in cli.commands, text
                command = cli.commands[name]
                if isinstance(command, click.Group):
                    assert set(below.split("|")) <= {"", *command.commands}, text
                known = flags_of(command) | {"--help"}
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
        assert flags <= known, (text, flags - known)
    assert checked >= 20


def test_every_variable_that_is_named_is_read() -> None:
    named = set(re.findall(r"\bASYNCART_[A-Z_]+\b", README))
    read = {f"ASYNCART_{name.upper()}" for name in config.FIELDS} | {SECRET_VARIABLE}
    read |= {str(option.envvar) for option in OPTIONS}
    assert named <= read, named - read
    assert len(named) >= 15


def fence(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return str(found)


def test_the_services_of_the_example_are_started_as_the_code_wants_it() -> None:
    """Commands, ports, and a grace that outlasts the server's own."""
    services = yaml.safe_load(fence("yaml"))["services"]
    ours = {name: each for name, each in services.items() if each["image"] == "asyncart"}
    assert sorted(ours) == ["replica1", "replica2", "upgrade"]
    for each in ours.values():
        program, *names = each["command"]
        assert program == "asyncart"
        command: click.Command = cli
        for name in names:
            assert isinstance(command, click.Group)
            command = command.commands[name]
    plain = ServerOptions(home="HOME")
    for name in ("replica1", "replica2"):
        grace_s = float(ours[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s > plain.drain_s + plain.stop_s
        assert f"{name}:{plain.port}" in fence("caddyfile")
        assert f"127.0.0.1:{plain.port}/healthz'" in ours[name]["healthcheck"]["test"][-1]


def test_the_balancer_of_the_example_asks_often_enough_to_see_a_replica_leave() -> None:
    asked = dict(re.findall(r"(health_\w+) (\S+)", fence("caddyfile")))
    assert asked["health_uri"] in OPEN_PATHS
    drain_s = ServerOptions(home="HOME").drain_s
    assert 2 * int(asked["health_interval"][:-1]) < drain_s


def test_the_example_has_a_secret_for_each_variable_that_it_wants() -> None:
    wanted = set(re.findall(r"\$\{(\w+)\}", fence("yaml")))
    assert wanted == set(re.findall(r"\b([A-Z0-9_]+)=\$\(openssl", README))
