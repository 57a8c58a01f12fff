"""Every command, as a process, with what it prints and how it ends."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli_shell import COMMAND, Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def data(shell: Shell) -> Path:
    shell.write("data/a.txt", "one\n")
    shell.write("data/sub/b.bin", bytes(range(256)) * 8)
    return shell.folder / "data"


# --- put ---


def test_put_says_what_it_did(shell: Shell, data: Path) -> None:
    assert shell("put", "data", "bikes", "-t", "dataset") == "bikes:v0  new  2 files  2.0 KiB\n"
    assert shell("put", "data", "bikes") == "bikes:v0  unchanged  2 files  2.0 KiB\n"
    (data / "a.txt").write_text("two, which is longer\n")
    assert (
        shell("put", "data", "bikes") == "bikes:v1  new  2 files  2.0 KiB (2.0 KiB deduplicated)\n"
    )


def test_put_with_everything_is_shown_by_show(shell: Shell, data: Path) -> None:
    put = shell.json(
        *("put", "data", "-n", "bikes", "-t", "dataset", "-a", "best", "-a", "prod"),
        *("-m", "rows=17", "-m", "note=plain text", "-m", "deep=[1, null]", "-d", "Some words"),
    )
    assert put["name"] == "bikes:v0"
    assert put["is_new"] is True
    assert (put["files"], put["bytes"], put["bytes_stored"]) == (2, 2052, 2052)
    shown = shell.json("show", "bikes:best")
    assert shown["metadata"] == {"rows": 17, "note": "plain text", "deep": [1, None]}
    assert shown["description"] == "Some words"
    assert sorted(shown["aliases"]) == ["best", "latest", "prod"]
    assert shown["type"] == "dataset"
    assert shown["digest"] == put["digest"]
    text = shell("show", "bikes")
    assert 'note = "plain text"' in text
    assert "(2,052 bytes)" in text


def test_a_type_is_given_once(shell: Shell, data: Path) -> None:
    shell("put", "data", "-t", "model")
    (data / "a.txt").write_text("changed")
    assert shell.json("put", "data")["type"] == "model"
    assert "model" in shell.error("put", "data", "-t", "dataset", code=2)


def test_a_single_folder_goes_to_the_root_and_several_paths_keep_their_names(
    shell: Shell, data: Path
) -> None:
    shell.write("readme.md", "hello")
    shell("put", "data", "alone")
    shell("put", "data", "readme.md", "both")
    shell("put", "readme.md")
    assert paths(shell, "alone:v0") == ["a.txt", "sub/b.bin"]
    assert paths(shell, "both:v0") == ["data/a.txt", "data/sub/b.bin", "readme.md"]
    assert paths(shell, "readme.md:v0") == ["readme.md"]


def test_the_name_is_the_last_argument_only_if_it_cannot_be_a_path(
    shell: Shell, data: Path
) -> None:
    assert shell("put", "data", "word").startswith("word:v0")
    for mistyped in ("modle.h5", "data/missing", "./word"):
        assert f"say --name {mistyped}" in shell.error("put", "data", mistyped, code=3)
    assert "does not exist" in shell.error("put", "word", code=3)
    assert "does not exist" in shell.error("put", "data", "word", "-n", "other", code=3)
    shell.write("word", "now it is a file")
    assert "--name" in shell.error("put", "data", "word", code=2)
    assert shell("put", "data", "word", "-n", "other").startswith("other:v0  new  3 files")


def test_put_into_another_project(shell: Shell, data: Path) -> None:
    put = shell.json("put", "data", "-n", "team/cars/wheels")
    assert put["qualified_name"] == "team/cars/wheels:v0"
    assert shell.json("put", "data", "--project", "p2")["qualified_name"] == "local/p2/data:v0"
    assert shell.json("show", "team/cars/wheels")["files"] == 2


def test_what_put_refuses(shell: Shell, data: Path) -> None:
    assert "KEY=VALUE" in shell.error("put", "data", "-m", "novalue", code=2)
    assert "--alias" in shell.error("put", "data", "-n", "data:best", code=2)
    assert "v3" in shell.error("put", "data", "-a", "v3", code=2)
    assert "my-data" in shell.error("put", "data", "-n", "my data", code=2)
    assert shell.run("put").returncode == 2
    assert not shell.json("ls")


def test_put_tracks_references(shell: Shell, data: Path) -> None:
    shell("put", "refs", "-r", "s3://bucket/model.h5", "-t", "model")
    [entry] = shell.json("ls", "refs:v0")
    assert (entry["path"], entry["reference"]) == ("model.h5", "s3://bucket/model.h5")
    assert "model.h5 -> s3://bucket/model.h5" in shell("ls", "refs:v0")
    assert "s3://bucket/model.h5" in shell.error("cat", "refs:v0/model.h5", code=2)


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not have")
@pytest.mark.parametrize(
    "name", ["ü ñ 文.txt", "-rf", "--json", "[bold]x[/]", "12:30", "'\"$HOME", "%s"]
)
def test_names_of_files_survive_as_they_are(shell: Shell, name: str) -> None:
    shell.write(f"data/{name}", name)
    shell("put", "data")
    assert paths(shell, "data:v0") == [name]
    assert shell("ls", "data:v0").splitlines()[1].endswith(f"  {name}")
    assert shell("cat", f"data:v0/{name}") == name
    assert shell("get", "data", "out") == "out\n"
    assert (shell.folder / "out" / name).read_text() == name


@pytest.mark.skipif(sys.platform == "win32", reason="names that Windows does not have")
@pytest.mark.parametrize("name", [b"line\nbreak", b"\x1b[31mred", b"not-utf8-\xff"])
def test_names_that_could_harm_a_terminal_are_refused_on_one_harmless_line(
    shell: Shell, name: bytes
) -> None:
    (shell.folder / "data").mkdir()
    with open(os.fsencode(shell.folder) + b"/data/" + name, "wb"):
        pass
    line = shell.error("put", "data", code=2)
    assert line.isprintable()
    assert line.isascii()


def test_a_description_cannot_steer_the_terminal(shell: Shell, data: Path) -> None:
    shell("put", "data", "-d", "a\x1b[2Jb\u202ec")
    assert "a\\x1b[2Jb\\u202ec" in shell("show", "data")


# --- get ---


def test_get_prints_the_folder_and_brings_the_files(shell: Shell, data: Path) -> None:
    shell("put", "data")
    assert shell("get", "data").strip() == os.path.join("artifacts", "data:v0")
    assert shell("get", "data:v0", "out") == "out\n"
    assert (shell.folder / "out/sub/b.bin").read_bytes() == (data / "sub/b.bin").read_bytes()
    again = shell.json("get", "data:v0", "out")
    assert (again["bytes"], again["bytes_present"], again["files"]) == (2052, 2052, 2)


def test_get_chooses(shell: Shell, data: Path) -> None:
    shell.write("data/sub/c.txt", "c")
    shell("put", "data")
    for number, (options, expected) in enumerate(
        [
            (["--prefix", "sub/"], {"sub/b.bin", "sub/c.txt"}),
            (["--include", "*.txt"], {"a.txt", "sub/c.txt"}),
            (["--include", "*.txt", "--exclude", "a*"], {"sub/c.txt"}),
            (["--include", "a*", "--include", "*.bin"], {"a.txt", "sub/b.bin"}),
        ]
    ):
        target = shell.folder / f"out{number}"
        assert shell.json("get", "data", target, *options)["files"] == len(expected)
        assert {f.relative_to(target).as_posix() for f in target.rglob("*.*")} == expected


def test_get_says_if_nothing_was_asked_for(shell: Shell, data: Path) -> None:
    shell("put", "data")
    for options in (["--include", "*.zip"], ["--prefix", "none"]):
        done = shell.run("get", "data", "out", *options)
        assert (done.returncode, done.stdout) == (0, "out\n")
        assert "data:v0 has nothing that you asked for" in done.stderr
    assert "nothing" not in shell.run("get", "data", "out").stderr


# --- ls, show ---


def test_ls_of_nothing_says_where_something_is(shell: Shell, data: Path) -> None:
    assert shell.run("ls").stderr == "asyncart: no artifacts in project uncategorized\n"
    shell("put", "data", "--project", "elsewhere")
    assert "--all lists those of elsewhere" in shell.run("ls").stderr
    assert "elsewhere/data" in shell("ls", "--all")


def test_ls_lists_names_versions_and_files(shell: Shell, data: Path) -> None:
    shell("put", "data", "-t", "dataset", "-a", "best")
    (data / "a.txt").write_text("three")
    shell("put", "data")
    header, row = shell("ls").splitlines()
    assert header.split() == ["NAME", "TYPE", "VERSIONS", "LATEST", "SIZE", "UPDATED"]
    assert row.split()[:6] == ["data", "dataset", "2", "v1", "2.0", "KiB"]
    assert [v["name"] for v in shell.json("ls", "data")] == ["data:v1", "data:v0"]
    assert shell("ls", "data").splitlines()[2].split()[-1] == "best"
    assert paths(shell, "data:best/sub") == ["sub/b.bin"]
    assert shell.json("ls", "-t", "model") == []
    assert paths(shell, "data:v0/none") == []


def test_tables_in_a_pipe_are_never_cut(shell: Shell) -> None:
    long = "/".join(["folder" * 10] * 10) + "/file.txt"
    shell.write(f"data/{long}", "x")
    shell("put", "data")
    row = shell("ls", "data:v0").splitlines()[1]
    assert row.endswith(long)
    assert "\x1b" not in row


def test_show_tells_where_it_came_from_and_went_to(shell: Shell, data: Path) -> None:
    shell("put", "data")
    program = (
        "import asyncio, asyncart.aio as asyncart\n"
        "async def main():\n"
        "    async with asyncart.init(job_type='train', name='night') as run:\n"
        "        await run.use_artifact('data')\n"
        "        model = asyncart.Artifact('net', 'model'); model.add_file('data/a.txt')\n"
        "        await run.log_artifact(model)\n"
        "asyncio.run(main())\n"
    )
    subprocess.run(
        [sys.executable, "-c", program], cwd=shell.folder, env=shell.environment, check=True
    )
    shown = shell.json("show", "data")
    assert [run["job_type"] for run in shown["logged_by"]] == ["put"]
    [use] = shown["used_by"]
    assert (use["name"], use["job_type"], use["state"]) == ("night", "train", "finished")
    assert use["logged"] == ["local/uncategorized/net:v0"]
    [made] = shell.json("show", "net")["logged_by"]
    assert made["used"] == ["local/uncategorized/data:v0"]
    assert "for local/uncategorized/net:v0" in shell("show", "data")


# --- cat, diff, verify ---


def test_cat_gives_the_bytes(shell: Shell) -> None:
    content = os.urandom(20 << 20)  # more than a block, and chunked
    shell.write("data/big.bin", content)
    shell.write("data/empty", b"")
    shell("put", "data")
    done = subprocess.run(
        [*COMMAND, "cat", "data:v0/big.bin"], env=shell.environment, capture_output=True, check=True
    )
    assert done.stdout == content
    assert shell("cat", "data:v0/empty") == ""
    found = shell.json("cat", "data:latest/empty")
    assert (found["bytes"], base64.b64decode(found["base64"])) == (0, b"")


def test_cat_needs_the_version_and_the_path(shell: Shell, data: Path) -> None:
    shell("put", "data")
    assert "such as data:latest/a.txt" in shell.error("cat", "data/a.txt", code=2)
    assert "such as data:v0/PATH" in shell.error("cat", "data:v0", code=2)
    assert shell.error("cat", "data:v0/nope", code=3).startswith("asyncart: NotFound: data:v0 has")


def test_diff_is_one_if_they_differ(shell: Shell, data: Path) -> None:
    shell("put", "data")
    shell.write("data/new.txt", "n")
    (data / "a.txt").write_text("longer\n")
    (data / "sub/b.bin").unlink()
    shell("put", "data")
    assert shell("diff", "data:v0", ":v1", code=1).splitlines() == [
        "~ a.txt  4 B -> 7 B",
        "+ new.txt  1 B",
        "- sub/b.bin  2.0 KiB",
    ]
    assert shell("diff", "data:v0", "data:v0") == ""
    found = shell.json("diff", "data:v1", "data:v0", code=1)
    assert (found["a"], found["b"]) == ("data:v1", "data:v0")
    assert found["changes"][0] == {
        "path": "a.txt",
        "change": "changed",
        "bytes_before": 7,
        "bytes_after": 4,
    }


def test_verify_a_folder(shell: Shell, data: Path) -> None:
    shell("put", "data")
    assert shell("verify", "data", "data") == ""
    (data / "a.txt").write_text("ONE\n")
    (data / "sub/b.bin").unlink()
    shell.write("data/extra", "")
    assert shell("verify", "data", "data", code=1).splitlines() == [
        "missing  sub/b.bin",
        "different  a.txt",
        "extra  extra",
    ]
    report = shell.json("verify", "data", "data", code=1)
    assert (report["ok"], report["different"]) == (False, ["a.txt"])


def test_verify_names_what_is_damaged_and_put_heals_it(shell: Shell, data: Path) -> None:
    shell("put", "data")
    assert shell.json("verify", "data")["ok"] is True
    for file in (shell.home / "store").rglob("objects/*/*"):
        if file.stat().st_size == 2052:  # the pack of both files
            file.chmod(0o644)
            content = bytearray(file.read_bytes())
            content[1] ^= 1
            file.write_bytes(content)
    assert shell("verify", "data", code=7) == "damaged  a.txt\n"
    assert "a.txt" in shell.error("get", "data", "out", code=7)
    assert not (shell.folder / "out/a.txt").exists()
    shell("put", "data")
    assert shell("verify", "data") == ""


# --- alias, rm, gc, cache, env ---


def test_alias_moves_and_removes(shell: Shell, data: Path) -> None:
    shell("put", "data", "-a", "best")
    (data / "a.txt").write_text("2")
    shell("put", "data")
    assert shell("alias", "data:v1", "best", "prod") == "data:v1  best, latest, prod\n"
    assert shell.json("show", "data:best")["version"] == "v1"
    assert shell.json("alias", "data:v1", "prod", "--remove")["aliases"] == ["best", "latest"]
    assert shell("alias", "data:v0") == "data:v0\n"
    assert "no alias 'prod'" in shell.error("alias", "data:v1", "prod", "--remove", code=3)
    assert shell.error("show", "data:prod", code=3)


def test_rm_asks_and_gc_frees(shell: Shell, data: Path) -> None:
    shell.write("data/big.bin", os.urandom(1 << 20))
    shell("put", "data")
    shell("put", shell.write("other.txt", "nothing of the first version"), "-n", "data")
    assert "say which version" in shell.error("rm", "data", "-y", code=2)
    assert "--yes" in shell.error("rm", "data:v0", code=5)
    before = stored_bytes(shell)
    assert shell("rm", "data:v0", "--yes") == "local/uncategorized/data:v0  deleted\n"
    assert shell.error("rm", "data:v0", "--yes", code=3)
    assert shell.json("gc", "--dry-run")["waiting_objects"] > 0
    assert stored_bytes(shell) == before
    report = shell.json("gc")
    assert report["freed_bytes"] == before - stored_bytes(shell) > 1 << 20
    assert shell("gc") == "0 objects deleted, 0 B freed\n"
    assert shell("verify", "data") == ""
    assert shell("put", "data", "-n", "data").startswith("data:v2  new")


def test_rm_keeps_what_an_alias_points_to(shell: Shell, data: Path) -> None:
    shell("put", "data", "-a", "prod")
    said = shell.error("rm", "data:v0", "-y", code=4)
    assert "prod" in said
    assert "--delete-aliases" in said
    assert shell.json("rm", "data:prod", "-y", "--delete-aliases") == {
        "deleted": ["local/uncategorized/data:v0"]
    }


def test_gc_removes_what_a_killed_process_left(shell: Shell, data: Path) -> None:
    shell("put", "data")
    folder = shell.home / "store/objects/00"
    folder.mkdir(exist_ok=True)
    left = folder / ".00000000000000000000000000000000.someboot-1-abcd.tmp"
    left.write_bytes(b"x")
    os.utime(left, (1, 1))
    assert shell.json("gc")["temp_files"] == 1
    assert not left.exists()


def test_cache_is_listed_and_cleared(shell: Shell, data: Path) -> None:
    assert [kind["files"] for kind in shell.json("cache", "ls")["kinds"]] == [0, 0, 0]
    assert not shell.home.exists()
    shell("put", "data")
    assert shell.json("cache", "ls")["kinds"][0]["files"] == 1
    assert "stat cache" in shell("cache", "ls")
    assert "--yes" in shell.error("cache", "clear", code=5)
    assert shell.json("cache", "clear", "--yes")["freed_bytes"] >= 0
    assert shell("put", "data").startswith("data:v0  unchanged")


def test_env_says_where_settings_come_from_and_changes_nothing(shell: Shell, data: Path) -> None:
    shell.write("asyncart.toml", 'project = "from-file"\nobjects = "elsewhere"\n')
    found = shell.json("env", "--entity", "me")
    assert found["settings"]["home"] == {"value": str(shell.home), "from": "environment"}
    assert found["settings"]["entity"] == {"value": "me", "from": "argument"}
    assert found["settings"]["project"]["from"].endswith("asyncart.toml")
    assert found["state"] == {"catalog": "not made yet", "objects": "not made yet"}
    assert found["free_bytes"]["catalog"] > 0
    assert not shell.home.exists()
    shell("put", "data")
    assert shell.json("env")["state"] == {"catalog": "ok, 1 project", "objects": "ok"}
    (shell.home / "catalog.sqlite").write_bytes(b"this is no database" * 100)
    assert "Corrupt" in shell("env")
    shell.write("asyncart.toml", "projekt = 1\n")
    assert "projekt" in shell.error("env", code=2)


def test_env_hides_passwords(shell: Shell) -> None:
    shell.write("asyncart.toml", 'catalog = "postgresql://me:s3cret@127.0.0.1:1/db"\n')
    for text in (shell("env"), shell("env", "--json")):
        assert "s3cret" not in text
        assert "me:***@127.0.0.1" in text


def test_the_demo_tells_its_story_and_leaves_nothing(shell: Shell) -> None:
    text = shell("demo")
    assert "every byte verified" in text
    assert "~ os.py" in text
    assert "different: os.py" in text
    assert not shell.home.exists()
    story = shell.json("demo", "--keep")
    assert [step["found"] for step in story["steps"] if "found" in step] == [["os.py"]]
    first, again, edited = story["steps"][:3]
    assert first["bytes"] / 2 < first["bytes_stored"] <= first["bytes"]  # it has equal files
    assert again["bytes_stored"] == 0
    assert edited["bytes_stored"] < first["bytes"] / 5
    kept = shell("--home", story["folder"], "--project", "demo", "ls", "stdlib")
    assert "stdlib:v1" in kept


# --- what all commands have ---


def test_options_may_stand_before_and_after_the_command(shell: Shell, data: Path) -> None:
    shell("put", "data")
    assert json.loads(shell("--json", "ls")) == json.loads(shell("ls", "--json"))
    assert json.loads(shell("--project", "none", "ls", "--json")) == []
    other = shell.folder / "other-home"
    shell("put", "data", "--home", other)
    assert (other / "catalog.sqlite").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["show", "nope"], 3, "not_found"),
        (["show", "a b"], 2, "invalid"),
        (["get", "nope:v1", "out"], 3, "not_found"),
        (["frobnicate"], 2, "invalid"),
        (["ls", "--frobnicate"], 2, "invalid"),
        (["rm", "x:v0", "--yes"], 3, "not_found"),
    ],
)
def test_errors_have_exit_codes_and_json(
    shell: Shell, arguments: list[str], code: int, name: str
) -> None:
    done = shell.run("--json", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    found = json.loads(done.stderr)
    assert (found["error"], found["exit_code"]) == (name, code)
    assert shell.run(*arguments).returncode == code
    assert json.loads(shell.run(*arguments, "--json").stderr) == found


def test_an_error_is_one_line_unless_everything_is_wanted(shell: Shell) -> None:
    line = shell.error("show", "nope", code=3)
    assert line.startswith("asyncart: NotFound: ")
    assert "Traceback" in shell.run("show", "nope", "-vv").stderr


def test_a_home_that_cannot_be_written_is_named(shell: Shell, data: Path) -> None:
    blocked = shell.write("file", "in the way")
    line = shell.error("put", "data", "--home", blocked / "home", code=6)
    assert str(blocked) in line


def test_a_catalog_says_how_to_meet_its_objects(shell: Shell, data: Path) -> None:
    """Both ways: what it knows is the folder in ASYNCART_HOME, or another place."""
    elsewhere = str(shell.folder / "elsewhere")
    shell("put", "data")
    shell.write("asyncart.toml", f'objects = "{elsewhere}"\n')
    assert "; leave `objects` out, or set ASYNCART_HOME" in shell.error("ls", code=2)
    other = shell.folder / "other"
    shell("put", "data", "--home", other)
    (shell.folder / "asyncart.toml").unlink()
    said = shell.error("ls", "--home", other, code=2)
    assert f"; set ASYNCART_OBJECTS={elsewhere}, or set ASYNCART_HOME" in said


def test_quiet_and_verbose(shell: Shell, data: Path) -> None:
    assert shell.run("put", "data", "-q").stderr == ""
    assert "data:v0 unchanged" in shell.run("put", "data", "-v").stderr
    assert shell.run("put", "data").stderr == ""


def test_progress_as_json_lines(shell: Shell, data: Path) -> None:
    done = shell.run("put", "data", "--json", "--progress")
    last = [json.loads(line) for line in done.stderr.splitlines()][-1]
    assert (last["files"], last["bytes"], last["bytes_moved"]) == (2, 2052, 2052)
    assert shell.run("put", "data", "--json").stderr == ""


def test_version_and_help(shell: Shell) -> None:
    assert shell("--version") == "asyncart 0.1.0\n"
    assert shell() == shell("--help")
    for command in [
        "demo",
        "put",
        "get",
        "ls",
        "show",
        "cat",
        "diff",
        "verify",
        "alias",
        "rm",
        "gc",
        "cache",
        "env",
    ]:
        assert f"  {command}" in shell("--help")
        assert "Usage: asyncart" in shell(command, "--help")


def test_help_imports_nothing_heavy(shell: Shell) -> None:
    program = (
        "import sys; from asyncart.cli.process import run_command_line\n"
        "assert run_command_line(['--help']) == 0\n"
        "heavy = {'asyncio', 'anyio', 'rich', 'sqlalchemy', 'aiohttp', 'msgspec', 'asyncart.config'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], env=shell.environment, check=True)


@pytest.mark.skipif(os.name == "nt", reason="no such pipes there")
def test_a_reader_that_goes_away_is_no_error(shell: Shell) -> None:
    shell.write("data/big.bin", os.urandom(10 << 20))
    for number in range(50):
        shell.write(f"data/{number:03}", str(number))
    shell("put", "data")
    for command in (["cat", "data:v0/big.bin"], ["ls", "data:v0"], ["env"]):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as stdout:
            done = shell.run(*command, stdout=stdout, capture_output=False, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["ls"], ["ls", "data:v0"], ["cat", "data:v0/a.txt"], ["env"]])
def test_a_full_disk_behind_stdout_is_an_error(
    shell: Shell, data: Path, command: list[str]
) -> None:
    """However long the answer is: in the middle of it, or when the last of it is written."""
    for number in range(200):
        shell.write(f"data/{'x' * 100}{number}", "")
    shell("put", "data")
    with open("/dev/full", "wb") as stdout:
        done = shell.run(*command, stdout=stdout, capture_output=False, stderr=subprocess.PIPE)
    assert done.returncode == 6
    [line] = done.stderr.splitlines()
    assert line.startswith("asyncart: Full: stdout: No space left on device: ")


def test_a_full_disk_below_the_folder_is_an_error(shell: Shell, disk_1_mib: Path) -> None:
    shell.write("data/big.bin", os.urandom(2 << 20))
    shell("put", "data")
    done = shell.run("get", "data:v0", str(disk_1_mib / "out"))
    assert (done.returncode, done.stdout) == (6, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"asyncart: Full: {disk_1_mib}/out/big.bin: No space left on device: ")
    assert f"{2 << 20:,} bytes are needed, {1 << 20:,} are free in {disk_1_mib}/out: " in line


@pytest.mark.skipif(os.name == "nt", reason="shells of Unix")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(shell: Shell, data: Path, closed: str) -> None:
    """As daemons start programs. The files that the command opens may not take their place."""
    for arguments in ("put data", "cat data:v0/a.txt"):
        line = f"{shlex.join(COMMAND)} {arguments} {closed}"
        subprocess.run(["sh", "-c", line], cwd=shell.folder, env=shell.environment, check=True)
    assert [each["name"] for each in shell.json("ls")] == ["data"]


def paths(shell: Shell, what: str) -> list[str]:
    return [entry["path"] for entry in shell.json("ls", what)]


def stored_bytes(shell: Shell) -> int:
    return sum(f.stat().st_size for f in (shell.home / "store").rglob("*") if f.is_file())
