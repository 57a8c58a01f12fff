"""What names, paths and metadata are accepted, and that a refusal says what to do."""

from __future__ import annotations

import datetime
import enum
import json
import math
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncart import names
from asyncart.errors import Invalid
from asyncart.names import Ref

# --- names -----------------------------------------------------------------------------------------

GOOD_NAMES = [
    "a",
    "bike-data",
    "run-3nq3ctyy-bike-model",
    "A_b.c-9",
    "...",
    ".hidden",
    "v3",
    "x" * 128,
]
BAD_NAMES = [
    *["", ".", "..", "x" * 129, "a b", "a/b", "a:b", "a\\b", "ä", "a\n", "a\0", "\u202ea", "a*"],
    *[
        " a",
        "a ",
        "a@b",
        "a#",
        "日本",
        "\ud800",
        "a\r\nb",
        "a\t",
        "\u00a0",
        "'a'",
        "a;b",
        "$(x)",
        "a%2f",
    ],
]


@pytest.mark.parametrize("check", [names.check_collection_name, names.check_entity])
@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_of_wandb_are_accepted(check: Any, name: str) -> None:
    assert check(name) == name


@pytest.mark.parametrize("check", [names.check_collection_name, names.check_entity])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_other_names_are_refused(check: Any, name: str) -> None:
    with pytest.raises(Invalid):
        check(name)


@pytest.mark.parametrize("name", ["bikes", "my project", "ä", "a.b", "x" * 128])
def test_projects_are_free_text(name: str) -> None:
    assert names.check_project(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a\\b", "a#b", "a?b", "a%b", "a:b", "a\n", " a", "x" * 129, "\ud800"],
)
def test_projects_that_break_urls_are_refused(name: str) -> None:
    with pytest.raises(Invalid, match="project"):
        names.check_project(name)


@pytest.mark.parametrize(
    "text", ["dataset", "raw data", "日本語", "jobs", "runs", "wandb", "x" * 128]
)
def test_types_are_free_text(text: str) -> None:
    assert names.check_type(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "job",
        "run",
        "wandb-x",
        "asyncart-x",
        "a/b",
        "a:b",
        "a\n",
        "\u202e",
        "x" * 129,
        " a",
        "\ud800",
    ],
)
def test_reserved_and_unprintable_types_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="artifact type"):
        names.check_type(text)


def test_the_error_of_a_reserved_type_says_so() -> None:
    with pytest.raises(Invalid, match=r"'job' is reserved.*choose another"):
        names.check_type("job")


@pytest.mark.parametrize("text", ["latest", "best-ap50", "v", "v1a", "version1", "V1x", "β", "a b"])
def test_aliases(text: str) -> None:
    assert names.check_alias(text) == text


@pytest.mark.parametrize(
    "text", ["", "v0", "v12", "v007", "v" + "9" * 99, "a/b", "a:b", "a\0", "x" * 129, "\x85", " a"]
)
def test_aliases_that_could_be_a_version_or_break_a_reference_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="alias"):
        names.check_alias(text)


def test_tags() -> None:
    assert names.check_tag("team:vision/2d") == "team:vision/2d"
    for text in ("", "a\n", "x" * 129):
        with pytest.raises(Invalid, match="tag"):
            names.check_tag(text)


@pytest.mark.parametrize(
    "check",
    [
        names.check_collection_name,
        names.check_type,
        names.check_alias,
        names.check_tag,
        names.check_entity,
        names.check_project,
        names.check_entry_path,
        names.parse_ref,
    ],
)
@pytest.mark.parametrize("value", [None, 3, b"a", ["a"], pathlib.PurePosixPath("a")])
def test_what_is_not_a_string_is_refused(check: Any, value: Any) -> None:
    with pytest.raises(Invalid, match="must be a string"):
        check(value)


# --- references ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("data", Ref(None, None, "data", "latest")),
        ("data:v3", Ref(None, None, "data", "v3")),
        ("data:best-ap50", Ref(None, None, "data", "best-ap50")),
        ("bikes/data", Ref(None, "bikes", "data", "latest")),
        ("me/my bikes/data:v0", Ref("me", "my bikes", "data", "v0")),
    ],
)
def test_parse_ref(text: str, ref: Ref) -> None:
    assert names.parse_ref(text) == ref
    assert names.parse_ref(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "data:",
        ":v1",
        "/data",
        "data/",
        "a//b",
        "a/b/c/d",
        "data:v1:v2",
        "data:a/b",
        "data:v007",
        "data: ",
        "../data",
        "a/../b",
        "a\0",
        "data:v1\n",
        "data@v1",
    ],
)
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        names.parse_ref(text)


def test_is_version_selector() -> None:
    selectors = ["v0", "v3", "v12", "v", "3", "v03", "latest", "v3 ", "v-1", "v٣", "V3", "v3\n"]
    assert [names.is_version_selector(s) for s in selectors] == [0, 3, 12] + [None] * 9


# --- paths of entries ------------------------------------------------------------------------------

GOOD_PATHS = [
    *[
        "a",
        "a/b",
        "images/cat.png",
        ".gitignore",
        "a/.b/c",
        "..a",
        "...a",
        "a..b/c",
        "a b/c d",
        " a",
    ],
    *[
        "é",
        "日本/語.txt",
        "e\u0301",
        "a" * 255,
        "é" * 127,
        "/".join(["d"] * 2048),
        "12:30:00.log",
        "ab:c",
    ],
    *[
        "console",
        "context/con1",
        "com",
        "com10",
        "nulls.txt",
        "auxiliary",
        "lpt",
        "x.con",
        "a.nul",
        "con-",
    ],
    *[
        "a*b",
        "a?b",
        "a|b",
        '"a"',
        "a<b>",
        "-rf",
        "~",
        "$HOME",
        "a%2e%2e",
        "%2e%2e/a",
        "\u202ea",
        "\u2028",
    ],
    *[
        "x" * 200 + "/" + "y" * 200,
        "😀.txt",
        "a\u3000",
        "\uff0e\uff0e/a",
        "a\uff0fb",
        "\u2215etc",
        "..\u200b/a",
    ],
]
BAD_PATHS = [
    *["", "/", "//", ".", "..", "./", "../", "/a", "//a", "a/", "a//b", "a/./b", "./a", "a/.", "a/.."],
    *["../a", "a/../b", "a/../../b", "../../etc/passwd", "/etc/passwd", "a/b/../../..", "....//", "a/..//b"],
    *["a\\b", "\\a", "..\\a", "a\\..\\b", "\\\\host\\share", "\\\\?\\C:\\a", "a/\\b", "/\\a"],
    *["C:", "C:a", "C:/a", "c:\\a", "z:x/y", "C:..", "\\\\.\\COM1"],
    *["a\0", "\0", "a\0b/c", "a/\0/b", *(f"a{chr(c)}b" for c in range(32)), "a\x7f", "a\x80", "a\x9f"],
    *["\ud800", "a/\udfff", "a\udc80b", "\udce4.txt", "\ud83d\ude00"],
    *["a.", "a ", "a./b", "a /b", "a/b.", "a/b ", "...", "a/...", " ", "  /a", ". ", ".. ", "a/.. /b", ".. /a"],
    *["CON", "con", "Con", "PRN", "AUX", "NUL", "nul.txt", "NUL.tar.gz", "a/con/b", "a/aux.c", "con.x/y"],
    *[f"COM{n}" for n in range(10)],
    *[f"lpt{n}.txt" for n in range(10)],
    *["COM¹", "com².txt", "LPT³", "CONIN$", "conout$", "conin$.x", "nul .txt", "a/NUL  .b.c", "con ", "con."],
    *["a" * 256, "x/" + "a" * 256 + "/y", "é" * 128, "日" * 86, "😀" * 64, "/".join(["d"] * 2049), "a/" * 3000],
    *["é" * 127 + "." + "a", "x/" + "/".join(["é" * 100] * 21), "d/" * 2047 + "abc"],
    *["file:///etc/passwd", "http://x/y", "s3://bucket//key", "a/b/", "a/b//", "/.", "/..", "/../a", "a/./", "a/../"],
    *[f"{prefix}{device}{suffix}" for prefix in ("", "x/y/") for device in ("aUx", "pRn", "nUl", "cOm7", "lPt1")
      for suffix in ("", ".", ".a", " .a.b", "/z", ".q/z")],
]  # fmt: skip


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_portable_paths_are_accepted_as_they_are(path: str) -> None:
    assert names.check_entry_path(path) == path
    assert names.is_safe_entry_path(path)


@pytest.mark.parametrize("path", BAD_PATHS)
def test_hostile_paths_are_refused(path: str) -> None:
    with pytest.raises(Invalid, match="entry path") as caught:
        names.check_entry_path(path)
    str(caught.value).encode()  # can be shown and logged
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert not names.is_safe_entry_path(path)


def test_there_are_at_least_200_hostile_paths() -> None:
    assert len(set(BAD_PATHS)) >= 200


PIECES = [
    *"abcnpulotxmriCONPRAUXL019.. / \\:",
    "con",
    "nul",
    "..",
    "/",
    "é",
    "\ud800",
    "\0",
    "a" * 130,
    "\n",
    "¹",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_the_fast_check_is_the_slow_check(path: str) -> None:
    """Also for paths that are close to the border: pieces of everything that is forbidden."""
    assert names.is_safe_entry_path(path) == (names._entry_path_problem(path) is None)


# Pieces of every rule, whole paths that are fine or hostile, and whatever else there is.
PATHS = st.one_of(
    st.sampled_from(GOOD_PATHS),
    st.sampled_from(BAD_PATHS),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.text(
        st.sampled_from("abcCoOnNuUlLxXpPrRmMtT19/\\.:$ \n\r\t\0\x7f\x85\u2028\ud800\udfff\u00b9\u00e9"),
        max_size=8,
    ),
    st.text(st.characters(), max_size=70),
    st.builds(lambda text, times: text * times, st.sampled_from(["a", "\u00e9", "a/", "\U0001f600"]),
              st.sampled_from([31, 32, 63, 64, 127, 128, 254, 255, 256, 1024, 2048, 4097])),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(PATHS, max_size=5))
def test_many_paths_are_checked_as_each_one_is(paths: list[str]) -> None:
    """One expression over all of them says what the rules say of each, in any company."""
    expected = [names.is_safe_entry_path(path) for path in paths]
    assert expected == [_is_accepted(path) for path in paths]
    assert names.are_safe_entry_paths(paths) is all(expected)
    good = [path for path, is_good in zip(paths, expected, strict=True) if is_good]
    assert names.are_safe_entry_paths(good)
    assert names.are_safe_entry_paths(tuple(good))


@given(
    st.lists(st.sampled_from(GOOD_PATHS), max_size=4), st.sampled_from(BAD_PATHS), st.integers(0, 4)
)
def test_one_hostile_path_is_found_among_good_ones(good: list[str], bad: str, at: int) -> None:
    """Wherever it is, and whatever its neighbours would make of it."""
    assert not names.are_safe_entry_paths([*good[:at], bad, *good[at:]])


@pytest.mark.parametrize(
    ("paths", "are_safe"),
    [
        ([], True),
        ([""], False),
        (["", ""], False),
        (["a", ""], False),
        (["", "a"], False),
        (["a\0b"], False),  # not two paths
        (["a\0", "b"], False),
        (["a", "\0"], False),
        (["a", "b\n"], False),
        (["a/", "b"], False),
        (["a", "/b"], False),
        (["con", "a"], False),
        (["a", "x/nul.txt"], False),
        (["a", "C:b"], False),
        (["a.", "b"], False),
        (["a", "b "], False),
        (["a", "\ud800"], False),
        (["..", "a"], False),
        (["a", "b/../c"], False),
        (["a", "a", "b/c d.e", ".f"], True),
    ],
)
def test_lists_of_paths(paths: list[str], are_safe: bool) -> None:
    assert names.are_safe_entry_paths(paths) is are_safe


def _is_accepted(path: str) -> bool:
    try:
        return names.check_entry_path(path) == path
    except Invalid:
        return False


@given(st.text(max_size=300))
def test_accepted_paths_stay_below_any_root(path: str) -> None:
    if names.is_safe_entry_path(path):
        joined = os.path.normpath(os.path.join("/root/dir", path))
        assert joined.startswith("/root/dir/")
        assert joined == "/root/dir/" + path
        assert pathlib.PureWindowsPath(path).drive == ""


# --- metadata --------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


def test_json_values_pass_unchanged_but_as_a_copy() -> None:
    value = {"a": [1, 2.5, True, None, "x", {"b": []}], "": {}}
    result = names.normalise_metadata(value)
    assert result == value
    assert result["a"] is not value["a"]


def test_no_metadata_is_an_empty_dict() -> None:
    assert names.normalise_metadata(None) == names.normalise_metadata({}) == {}


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (math.nan, None),
        ((1, (2,)), [1, [2]]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (datetime.datetime(2024, 1, 2, 3, 4, tzinfo=datetime.UTC), "2024-01-02T03:04:00+00:00"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.time(3, 4), "03:04:00"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.float64("nan"), None),
        (np.int64(7), 7),
        (np.uint8(7), 7),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.arange(3), [0, 1, 2]),
        (np.array([[1.0, math.nan]]), [[1.0, None]]),
        (np.array(5), 5),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.datetime64("2024-01-02T03:04:05.000000006", "ns"), "2024-01-02T03:04:05.000000006"),
        (np.array(["2024-01-02", "NaT"], dtype="M8[D]"), ["2024-01-02", None]),
        (np.datetime64("NaT"), None),
    ],
    ids=lambda value: type(value).__name__,  # not repr: that of a set differs between processes
)
def test_values_that_convert(value: Any, result: Any) -> None:
    got = names.normalise_metadata({"k": value})["k"]
    assert got == result
    assert type(got) is type(result)
    json.dumps(got, allow_nan=False)


@pytest.mark.parametrize(
    ("metadata", "where"),
    [
        ({"a": {"b": [0, math.inf]}}, "metadata['a']['b'][1] is infinite"),
        ({"a": -math.inf}, "metadata['a'] is infinite"),
        ({"a": np.array([1.0, np.inf])}, "metadata['a'][1] is infinite"),
        ({1: 2}, "metadata has the key 1 of type int"),
        ({"a": {None: 2}}, "metadata['a'] has the key None"),
        ({"a": {(1, 2): 2}}, "metadata['a'] has the key (1, 2)"),
        ({"a": b"x"}, "metadata['a'] is of type bytes"),
        ({"a": object()}, "metadata['a'] is of type object"),
        ({"a": 1j}, "metadata['a'] is of type complex"),
        ({"a": np.array([1j])}, "metadata['a'] is of dtype complex128"),
        ({"a": np.timedelta64(1, "s")}, "metadata['a'] is of dtype timedelta64[s]"),
        ({"a": [lambda: 0]}, "metadata['a'][0] is of type function"),
        ({"a": 2**64}, "metadata['a'] does not fit into 64 bits"),
        ({"a": -(2**63) - 1}, "metadata['a'] does not fit into 64 bits"),
        ({"a": "\ud800"}, "metadata['a'] is not valid UTF-8"),
        ({"\udfff": 1}, "metadata: key is not valid UTF-8"),
        ({"a": "x\0y"}, "metadata['a'] contains a NUL"),
        ({str(i): i for i in range(101)}, "metadata has 101 keys"),
        ([1], "metadata must be a mapping"),
        ("x", "metadata must be a mapping"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_json_cannot_hold_are_named(metadata: Any, where: str) -> None:
    with pytest.raises(Invalid) as caught:
        names.normalise_metadata(metadata)
    assert str(caught.value).startswith(where)


def test_one_hundred_keys_are_fine_and_more_below_the_top_level() -> None:
    assert len(names.normalise_metadata({str(i): i for i in range(100)})) == 100
    assert len(names.normalise_metadata({"a": {str(i): i for i in range(500)}})["a"]) == 500


def test_cycles_are_refused_but_shared_values_are_not() -> None:
    shared = [1]
    assert names.normalise_metadata({"a": shared, "b": [shared, shared]}) == {
        "a": [1],
        "b": [[1], [1]],
    }
    cycle: dict[str, Any] = {}
    cycle["a"] = [cycle]
    with pytest.raises(Invalid, match=r"metadata\['a'\]\[0\] contains itself"):
        names.normalise_metadata(cycle)


def test_the_depth_is_limited() -> None:
    def nested(levels: int) -> Any:
        return [] if levels == 1 else [nested(levels - 1)]

    names.normalise_metadata({"a": nested(names.MAX_METADATA_DEPTH - 1)})
    with pytest.raises(Invalid, match="nested deeper than 64 levels"):
        names.normalise_metadata({"a": nested(names.MAX_METADATA_DEPTH)})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from("xyz"), JSON))
def test_json_is_a_fixed_point(value: dict[str, Any]) -> None:
    assert names.normalise_metadata(value) == json.loads(json.dumps(value)) == value


def test_numpy_is_not_imported() -> None:
    code = "import sys, asyncart.names as n; n.normalise_metadata({'a': 1}); assert 'numpy' not in sys.modules"
    root = pathlib.Path(names.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
