"""Keys are kept where nobody else reads them, and given out for their own origin alone."""

from __future__ import annotations

import os
import stat
import sys
import types
from pathlib import Path

import pytest

from asyncart import config, credentials
from asyncart.errors import Denied, Invalid
from asyncart.origins import check_origin

ORIGIN = "https://art.example.com"


@pytest.fixture(autouse=True)
def no_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)


class Keyring(types.ModuleType):
    """The three functions of the package `keyring`; `keeps` is False for one that forgets."""

    def __init__(self, *, keeps: bool = True) -> None:
        super().__init__("keyring")
        self.kept: dict[tuple[str, str], str] = {}
        self.keeps = keeps

    def set_password(self, service: str, name: str, password: str) -> None:
        if self.keeps:
            self.kept[service, name] = password

    def get_password(self, service: str, name: str) -> str | None:
        return self.kept.get((service, name))

    def delete_password(self, service: str, name: str) -> None:
        del self.kept[service, name]


def home_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    home = str(tmp_path / "home")
    monkeypatch.setenv("ASYNCART_HOME", home)
    return home


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    """Mode 0600, and nothing else is left in the folder."""
    home = str(tmp_path / "home")
    assert credentials.log_in(home, ORIGIN, "key-1") == credentials.file_of(home)
    assert os.listdir(home) == [credentials.FILE]
    assert stat.S_IMODE(os.stat(credentials.file_of(home)).st_mode) == 0o600
    assert credentials.find_key(home, ORIGIN) == ("key-1", credentials.file_of(home))


def test_a_key_is_given_out_for_its_own_origin_alone(tmp_path: Path) -> None:
    """Another scheme, host or port is another origin; another spelling of the same one is not."""
    home = str(tmp_path)
    credentials.log_in(home, ORIGIN, "key-1")
    for other in (
        "http://art.example.com",
        "https://art.example.com:8443",
        "https://example.com",
        "https://art.example.com.evil.org",
    ):
        assert credentials.find_key(home, other) is None
    for same in ("HTTPS://art.example.com:443/", "https://ART.example.com"):
        assert credentials.find_key(home, same) is not None


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    home = str(tmp_path)
    credentials.log_in(home, ORIGIN, "key-1")
    os.chmod(credentials.file_of(home), 0o640)
    with pytest.raises(Denied, match="chmod 600"):
        credentials.find_key(home, ORIGIN)


def test_a_damaged_file_is_named_and_not_quoted(tmp_path: Path) -> None:
    path = Path(credentials.file_of(str(tmp_path)))
    path.touch(0o600)
    path.write_text('{"keys": {"https://x": "aart_secret"')
    with pytest.raises(Invalid, match=credentials.FILE) as caught:
        credentials.find_key(str(tmp_path), ORIGIN)
    assert "aart_secret" not in str(caught.value)


def test_logging_out_forgets(tmp_path: Path) -> None:
    """The key and the login; the last one removes the file."""
    home = str(tmp_path)
    credentials.log_in(home, ORIGIN, "key-1")
    credentials.log_in(home, "https://b.example.com", "key-2")
    assert credentials.logged_in_to(home) == "https://b.example.com"
    assert credentials.log_out(home, "https://b.example.com")
    assert credentials.logged_in_to(home) == ""
    assert credentials.find_key(home, ORIGIN) is not None
    assert credentials.log_out(home, ORIGIN)
    assert not credentials.log_out(home, ORIGIN)
    assert os.listdir(home) == []


def test_a_keyring_is_used_if_it_keeps_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, keyring = str(tmp_path), Keyring()
    credentials.log_in(home, ORIGIN, "key-1")  # before there was a keyring
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    assert credentials.log_in(home, ORIGIN, "key-2") == "keyring"
    assert credentials.find_key(home, ORIGIN) == ("key-2", "keyring")
    assert "key-" not in Path(credentials.file_of(home)).read_text()
    assert credentials.logged_in_to(home) == ORIGIN
    assert credentials.log_out(home, ORIGIN)
    assert (keyring.kept, os.listdir(home)) == ({}, [])


def test_a_keyring_that_keeps_nothing_is_no_keyring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", Keyring(keeps=False))
    assert credentials.log_in(str(tmp_path), ORIGIN, "key-1") != "keyring"
    assert credentials.find_key(str(tmp_path), ORIGIN) is not None


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://art.example.com/", ORIGIN),
        ("https://art.example.com:443", ORIGIN),
        ("https://art.example.com:8443", ORIGIN + ":8443"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://localhost:80", "http://localhost"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_origin_has_one_spelling(url: str, origin: str) -> None:
    assert check_origin(url) == origin


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("art.example.com", "not a URL"),
        ("ftp://art.example.com", "not a URL"),
        ("https://", "not a URL"),
        ("https://art.example.com:x", "[Pp]ort"),
        ("https://art.example.com/team", "only scheme and host"),
        ("https://art.example.com?x=1", "only scheme and host"),
        ("https://me:secret@art.example.com", "no names and passwords"),
        ("http://art.example.com", "ASYNCART_ALLOW_INSECURE_HTTP"),
        ("http://127.0.0.1.evil.org", "ASYNCART_ALLOW_INSECURE_HTTP"),
        ("http://10.0.0.1", "ASYNCART_ALLOW_INSECURE_HTTP"),
    ],
)
def test_what_is_no_origin_is_refused(url: str, why: str) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        check_origin(url)
    assert "secret" not in str(caught.value)


def test_plain_http_is_allowed_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCART_SERVER", "http://art.example.com")
    with pytest.raises(Invalid, match=r"plain http.*\(from environment\)"):
        config.load()
    monkeypatch.setenv("ASYNCART_ALLOW_INSECURE_HTTP", "1")
    assert config.load().server == "http://art.example.com"


def test_the_login_is_the_server_where_nothing_else_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything that says where the data is comes first."""
    home = home_with(tmp_path, monkeypatch)
    assert config.load().server == ""
    credentials.log_in(home, ORIGIN, "key-1")
    resolved = config.resolve()
    assert (resolved.settings.server, resolved.sources["server"]) == (ORIGIN, config.LOGIN)
    assert config.load(catalog="/x/catalog.sqlite").server == ""
    assert config.load(objects="s3://bucket").server == ""
    assert config.load(server="https://b.example.com").server == "https://b.example.com"


def test_a_server_and_a_catalog_contradict_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says where each of them came from."""
    home_with(tmp_path, monkeypatch)
    monkeypatch.setenv("ASYNCART_SERVER", ORIGIN)
    with pytest.raises(Invalid, match=r"\(from environment\) and catalog .*\(from argument\)"):
        config.load(catalog="/x/catalog.sqlite")


def test_the_entity_is_the_keys_own_at_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNCART_ENTITY", raising=False)
    assert config.load(server=ORIGIN).entity == ""
    assert config.load(server=ORIGIN, entity="team").entity == "team"
    assert config.load().entity == "local"


def test_settings_do_not_show_the_key() -> None:
    import rich.pretty

    settings = config.load(server=ORIGIN, api_key="aart_secret")
    assert settings.api_key == "aart_secret"
    shown = f"{settings!r} {settings} {rich.pretty.pretty_repr(settings)} {config.resolve(api_key='aart_secret')!r}"
    assert "aart_secret" not in shown
    assert ORIGIN in shown


def test_a_home_of_somebody_else_is_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not "unavailable": to repeat it would not help, another home does."""

    def refuse(path: str, mode: str) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(credentials, "open", refuse, raising=False)
    with pytest.raises(Denied, match=r"credentials\.json cannot be read.* set ASYNCART_HOME"):
        config.load(home=str(tmp_path))
