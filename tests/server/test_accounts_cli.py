"""`asyncart admin`, against a running server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asyncart.apikey import parse_key
from asyncart.cli.process import run_command_line


@pytest.fixture
def admin(
    asyncart_server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Any]:
    """Runs `asyncart admin ...` as the server's first administrator."""
    monkeypatch.setenv("ASYNCART_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ASYNCART_SERVER", asyncart_server.url)
    monkeypatch.setenv("ASYNCART_API_KEY", asyncart_server.key)

    def run(*arguments: str, code: int = 0, is_json: bool = True, key: str | None = None) -> Any:
        if key is not None:
            monkeypatch.setenv("ASYNCART_API_KEY", key)
        found = run_command_line(["admin", *arguments, *(["--json"] if is_json else [])])
        said = capsys.readouterr()
        assert found == code, said
        if code:
            return said.err
        return json.loads(said.out) if is_json else said.out

    return run


def test_from_a_team_to_its_audit_log(admin: Callable[..., Any]) -> None:
    """Everything that the commands change, they can show."""
    admin("user", "create", "cli-eva")
    assert "cli-eva" in [each["name"] for each in admin("user", "list")]
    admin("user", "create", "cli-eva", code=4)
    admin("team", "create", "cli-crew")
    admin("team", "add", "cli-crew", "cli-eva", "--role", "viewer")
    assert admin("team", "members", "cli-crew") == [
        {"user": "cli-eva", "role": "viewer", "project": None}
    ]
    assert "cli-crew" in [each["name"] for each in admin("team", "list")]
    admin("role", "set", "cli-crew/p", "cli-eva", "maintainer")
    assert admin("role", "list", "cli-crew/p") == [
        {"user": "cli-eva", "role": "maintainer", "project": "p"}
    ]
    admin("alias", "protect", "cli-crew/p", "prod*", "--artifact", "model")
    assert admin("alias", "list", "cli-crew/p") == [{"collection": "model", "pattern": "prod*"}]
    admin("alias", "unprotect", "cli-crew/p", "prod*", "--artifact", "model")
    assert admin("alias", "list", "cli-crew/p") == []
    admin("role", "remove", "cli-crew/p", "cli-eva")
    assert admin("role", "list", "cli-crew/p") == []
    admin("team", "remove", "cli-crew", "cli-eva")
    assert admin("team", "members", "cli-crew") == []
    admin("user", "update", "cli-eva", "--disable")
    (eva,) = [each for each in admin("user", "list") if each["name"] == "cli-eva"]
    assert eva["is_disabled"] is True
    done = [each["action"] for each in admin("audit", "cli-crew")]
    assert done == [
        "remove_member",
        "remove_project_role",
        "unprotect_alias",
        "protect_alias",
        "set_project_role",
        "set_member",
    ]
    assert [each["action"] for each in admin("audit", "cli-crew", "-n", "1")] == ["remove_member"]
    assert len(admin("audit", "cli-crew/p")) == 4


def test_a_key_is_shown_once_and_works(admin: Callable[..., Any]) -> None:
    admin("user", "create", "cli-max")
    text = admin("key", "create", "--user", "cli-max", "--expires", "30d", "--only", "cli-max/p",
                 "--name", "for CI", is_json=False).strip()  # fmt: skip
    key = parse_key(text)
    (listed,) = admin("key", "list", "--user", "cli-max")
    assert (listed["id"], listed["name"], listed["project"]) == (key.id, "for CI", "cli-max/p")
    assert listed["scopes"] == ["alias", "read", "write"]
    assert listed["expires_at"] - listed["created_at"] == pytest.approx(30 * 86400)
    assert key.secret not in admin("key", "list", "--user", "cli-max", is_json=False)
    assert admin("alias", "list", "cli-max/p", key=text) == []
    error = admin("user", "list", code=5)
    assert "scope 'admin'" in error
    assert key.secret not in error


def test_a_revoked_key_is_refused(admin: Callable[..., Any]) -> None:
    admin("user", "create", "cli-wil")
    made = admin("key", "create", "--user", "cli-wil", "--scope", "read")
    admin("key", "revoke", made["key"]["id"])
    error = admin("team", "list", code=5, key=made["text"])
    assert "not valid (any more)" in error


def test_tables_for_people(admin: Callable[..., Any]) -> None:
    for words, header in (
        (("user", "list"), "USER"),
        (("team", "list"), "TEAM"),
        (("key", "list"), "KEY"),
        (("audit",), "WHEN"),
    ):
        assert admin(*words, is_json=False).startswith(header)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("role", "list", "no-slash"), 2),
        (("key", "create", "--expires", "soon"), 2),
        (("key", "revoke", "NoSuchKey000"), 3),
        (("team", "add", "no-such-team", "admin"), 2),
        (("user", "update", "nobody-here", "--disable"), 3),
    ],
)
def test_mistakes_have_exit_codes(
    admin: Callable[..., Any], words: tuple[str, ...], code: int
) -> None:
    assert admin(*words, code=code)


def test_without_a_server_it_says_what_to_do(
    admin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASYNCART_SERVER")
    assert "asyncart login" in admin("user", "list", code=2)


def test_help_names_every_group() -> None:
    from asyncart.cli.commands.admin import admin as command

    said = CliRunner().invoke(command, ["--help"]).output
    for name in ("user", "team", "role", "key", "alias", "audit"):
        assert f"  {name} " in said


def test_without_a_key_it_is_said_how_to_get_one(
    admin: Callable[..., Any], asyncart_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASYNCART_API_KEY")
    said = json.loads(admin("user", "list", code=5))
    assert f"`asyncart login {asyncart_server.url}`" in said["message"]
