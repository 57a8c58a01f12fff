"""Settings: who wins, where each value came from, and errors that name the source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncart
import asyncart.aio
from asyncart import config
from asyncart.errors import Invalid


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory below `project`, a user configuration folder, and an empty environment."""
    for name in list(os.environ):
        if name.startswith("ASYNCART_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    folder = tmp_path / "project" / "src"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def write(path: Path | None, text: str) -> str:
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


# --- who wins -----------------------------------------------------------------------------------


def test_each_layer_wins_over_those_below_and_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen() -> tuple[str, str]:
        resolved = config.resolve(project=argument)
        return resolved.settings.project, resolved.sources["project"]

    argument: str | None = None
    assert seen() == ("uncategorized", "default")
    user = write(config.user_file(), "project = 'of-user'")
    assert seen() == ("of-user", user)
    project = write(here.parent / "asyncart.toml", "project = 'of-project'")
    assert seen() == ("of-project", project)
    nearer = write(here / "asyncart.toml", "project = 'nearer'")
    assert seen() == ("nearer", nearer)
    monkeypatch.setenv("ASYNCART_PROJECT", "of-environment")
    assert seen() == ("of-environment", "environment")
    argument = "of-argument"
    assert seen() == ("of-argument", "argument")


def test_layers_fill_each_other_in(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(config.user_file(), "entity = 'me'\nthreads = 3")
    write(here / "asyncart.toml", "project = 'bikes'\nthreads = 4")
    monkeypatch.setenv("ASYNCART_MEMORY_BYTES", "128M")
    settings = config.load(stall_timeout_s=5.0)
    assert (settings.entity, settings.project, settings.threads) == ("me", "bikes", 4)
    assert (settings.memory_bytes, settings.stall_timeout_s) == (128 << 20, 5.0)


def test_only_the_nearest_project_file_counts(here: Path) -> None:
    write(here.parent / "asyncart.toml", "project = 'above'\nentity = 'above'")
    write(here / "asyncart.toml", "project = 'here'")
    settings = config.load()
    assert (settings.project, settings.entity) == ("here", "local")
    assert config.project_file() == here / "asyncart.toml"


def test_a_folder_of_that_name_is_no_project_file(here: Path) -> None:
    (here / "asyncart.toml").mkdir()
    assert config.project_file() is None


def test_none_and_an_empty_variable_mean_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCART_PROJECT", "")
    assert config.resolve(project=None, entity=None).sources["project"] == "default"


def test_every_setting_has_a_source() -> None:
    assert set(config.resolve().sources) == set(config.FIELDS)


def test_reading_settings_makes_nothing(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    settings = config.load()
    assert settings.catalog_url
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "entrance", [asyncart.init, asyncart.Api, asyncart.aio.init, asyncart.aio.Api]
)
def test_the_setting_of_another_name_is_led_to_its_argument(entrance: Callable[..., Any]) -> None:
    """`objects` in files and in the environment is the argument `store`."""
    with pytest.raises(Invalid, match=r"called `store` as an argument: store='s3://bucket'"):
        entrance(objects="s3://bucket")
    with pytest.raises(Invalid, match="called `store`"):
        entrance(objects="s3://bucket", store="s3://other")


# --- paths --------------------------------------------------------------------------------------


def test_everything_is_below_home(tmp_path: Path) -> None:
    home = str(tmp_path / "root")
    settings = config.load(home=home)
    for path in (
        settings.catalog_url,
        settings.objects_url,
        settings.statcache_path,
        settings.cache_dir,
        settings.drafts_dir,
    ):
        assert Path(path).parent == Path(home)


def test_the_default_home_is_the_platforms_folder_for_data(tmp_path: Path) -> None:
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert config.load().home == str(tmp_path / "data" / "asyncart")


@pytest.mark.parametrize("name", ["home", "objects", "catalog"])
def test_half_a_url_is_no_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the objects of a mistyped bucket would lie in a folder called `s3:` beside the code."""
    monkeypatch.setenv(f"ASYNCART_{name.upper()}", "s3:/bucket")
    with pytest.raises(Invalid, match=f"{name} = 's3:/bucket' from environment: .*two slashes"):
        config.load()
    for path in ("C:/objects", "./s3:/bucket"):
        monkeypatch.setenv(f"ASYNCART_{name.upper()}", path)
        assert getattr(config.load(), name) == os.path.abspath(path)


def test_paths_are_absolute_and_know_the_users_folder(here: Path, tmp_path: Path) -> None:
    settings = config.load(home="rel/home", objects="~/objects", catalog="../catalog.sqlite")
    assert settings.home == str(here / "rel" / "home")
    assert settings.objects == str(tmp_path / "me" / "objects")
    assert settings.catalog == str(here.parent / "catalog.sqlite")


def test_a_path_in_a_file_is_relative_to_that_file(here: Path, tmp_path: Path) -> None:
    """... so that it is one place, from whatever folder below a program is started."""
    write(here.parent / "asyncart.toml", "home = '.asyncart'\nobjects = '~/o'\ncatalog = '/c'")
    settings = config.load()
    assert settings.home == str(here.parent / ".asyncart")
    assert settings.objects == str(tmp_path / "me" / "o")
    assert settings.catalog == "/c"


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "postgresql://host/db", "http://host:1"])
def test_urls_stay_as_they_are(here: Path, url: str) -> None:
    write(here / "asyncart.toml", f"objects = '{url}'")
    assert config.load(catalog=url).catalog == config.load().objects == url


# --- errors -------------------------------------------------------------------------------------


def test_a_setting_that_does_not_exist_is_named_with_its_source(here: Path) -> None:
    path = write(here / "asyncart.toml", "projekt = 'x'")
    with pytest.raises(
        Invalid, match=rf"'projekt' from {path} is not a setting; known are .*project"
    ):
        config.load()
    (here / "asyncart.toml").unlink()
    with pytest.raises(Invalid, match="'projekt' from argument"):
        config.load(projekt="x")


def test_other_variables_of_the_environment_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCART_API_KEY", "secret")
    assert "secret" not in str(config.resolve())


@pytest.mark.parametrize("text", ["project = ", "a = 1\na = 2", "[unclosed", "\0"])
def test_a_file_that_is_no_toml_is_named(here: Path, text: str) -> None:
    path = write(here / "asyncart.toml", text)
    with pytest.raises(Invalid, match=rf"{path} is not valid TOML.*correct or remove it"):
        config.load()


def test_a_file_that_is_not_utf_8_is_named(here: Path) -> None:
    (here / "asyncart.toml").write_bytes(b"project = '\xff'")
    with pytest.raises(Invalid, match=r"asyncart\.toml is not valid TOML"):
        config.load()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threads", "many"),
        ("threads", "-1"),
        ("threads", "1.5"),
        ("memory_bytes", "lots"),
        ("memory_bytes", "0"),
        ("memory_bytes", "-1M"),
        ("memory_bytes", "1kk"),
        ("memory_bytes", "1e999"),
        ("cache_bytes", "nan"),
        ("stall_timeout_s", "soon"),
        ("stall_timeout_s", "0"),
        ("stall_timeout_s", "inf"),
    ],
)
def test_a_bad_value_is_named_with_key_and_source(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setenv(f"ASYNCART_{key.upper()}", value)
    with pytest.raises(Invalid, match=rf"{key} = '{value}' from environment"):
        config.load()


@pytest.mark.parametrize(
    "text",
    ["entity = 5", "threads = [1]", "memory_bytes = 'x'", "home = {a = 1}", "project = true"],
)
def test_a_value_of_the_wrong_kind_is_named(here: Path, text: str) -> None:
    path = write(here / "asyncart.toml", text)
    with pytest.raises(Invalid, match=f"{text.partition(' ')[0]} = .* from {path}"):
        config.load()


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("500000", 500_000),
        ("9007199254740993", 9_007_199_254_740_993),  # more than a float can tell apart
        ("64k", 64 << 10),
        ("64K", 64 << 10),
        ("64M", 64 << 20),
        ("64MB", 64 << 20),
        ("64 MiB", 64 << 20),
        ("20GiB", 20 << 30),
        (" 2T ", 2 << 40),
        ("1.5g", 3 << 29),
        ("100b", 100),
    ],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert config.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", " ", "M", "b", "ib", "1x", "1 0", "1kk", "-1", "1e3", "٣", "0x10", "1,5"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a size"):
        config.parse_size(text)


def test_numbers_need_no_quotes(here: Path) -> None:
    write(here / "asyncart.toml", "memory_bytes = 1048576\ncache_bytes = '1G'\nstall_timeout_s = 2")
    settings = config.load()
    values: list[Any] = [settings.memory_bytes, settings.cache_bytes, settings.stall_timeout_s]
    assert values == [1 << 20, 1 << 30, 2.0]


# --- a server, and its key ----------------------------------------------------------------------


def test_a_key_of_ours_is_not_sent_where_a_project_s_file_says(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cloned repository may name its server, and must not get a key that was meant for another one."""
    server = "https://art.example.com"
    path = write(here.parent / "asyncart.toml", f"server = {server!r}\n")
    assert config.load().server == server  # with the key that was stored for it, if there is one
    monkeypatch.setenv("ASYNCART_API_KEY", "aart_a_b_c")
    with pytest.raises(Invalid, match="is not sent to") as refused:
        config.load()
    assert path in str(refused.value)
    assert "aart_a_b_c" not in str(refused.value)
    monkeypatch.setenv("ASYNCART_SERVER", server)
    assert config.load().api_key == "aart_a_b_c"
    monkeypatch.delenv("ASYNCART_SERVER")
    assert config.load(server=server).server == server
