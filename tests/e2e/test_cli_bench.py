"""`asyncart doctor` and `asyncart bench` against real stores, and `python -m bench s3` from end to end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_shell import ROOT, Shell
from services import S3Server

from asyncart.aio.speed import Speed, bottleneck
from asyncart.catalog.schema import REVISIONS
from bench import report
from bench.case import Results, Row, Target, cpu_at_most, judge
from bench.measure import Measurement
from bench.processes import free_port

SPEEDS = [
    "hash and chunk",
    "hash",
    "disk read",
    "disk write",
    "upload",
    "download",
    "small objects up",
    "small objects down",
]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


class Bucket:
    """A prefix of the test server's bucket, and what lies below it."""

    def __init__(self, server: S3Server, client: Any) -> None:
        self.prefix = f"doctor-{os.urandom(6).hex()}"
        self.url = f"s3://{server.bucket}/{self.prefix}"
        self.client = client
        self._where = {"Bucket": server.bucket, "Prefix": f"{self.prefix}/"}

    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(**self._where).get("Contents", ())
        return [item["Key"] for item in found]

    def uploads(self) -> list[str]:
        found = self.client.list_multipart_uploads(**self._where).get("Uploads", ())
        return [item["Key"] for item in found]


@pytest.fixture
def bucket(aws_environment: S3Server) -> Iterator[Bucket]:
    with aws_environment.client() as client:
        yield Bucket(aws_environment, client)


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{finding['topic']}/{finding['name']}": finding for finding in report["findings"]}


def states(report: dict[str, Any], topic: str) -> dict[str, str]:
    return {f["name"]: f["state"] for f in report["findings"] if f["topic"] == topic}


# --- doctor: a folder, this machine, the catalog ---


def test_doctor_finds_a_folder_usable_and_leaves_nothing(shell: Shell) -> None:
    report = shell.json("doctor")
    assert report["usable"] is True
    assert set(states(report, "store").values()) == {"ok"}
    assert {"put", "get", "ranged get", "list", "delete", "latency"} <= set(states(report, "store"))
    assert {"home", "free space", "file system", "limits"} <= set(states(report, "machine"))
    assert not shell.home.exists()


def test_doctor_leaves_a_store_as_it_was(shell: Shell) -> None:
    shell.write("data/a.txt", "one")
    shell("put", "data", "bikes")
    before = sorted(str(path) for path in (shell.home / "store").rglob("*"))
    report = shell.json("doctor")
    assert sorted(str(path) for path in (shell.home / "store").rglob("*")) == before
    found = by_name(report)
    assert found["catalog/catalog"]["value"] == 1
    assert found["catalog/schema"]["value"] == REVISIONS[-1]
    assert found["catalog/journal"]["state"] == "ok"
    assert found["machine/reflinks"]["value"] in (True, False)


def test_doctor_reads_to_people_too(shell: Shell) -> None:
    lines = shell("doctor").splitlines()
    assert lines[0] == "store"
    assert lines[-1] == f"{shell.home}/store can be used"
    assert any(line.split() == ["ok", "SQLite", sqlite3.sqlite_version] for line in lines)


def test_doctor_counts_what_a_killed_writer_left(shell: Shell) -> None:
    temp = shell.home / "store" / "objects" / "ab" / ".cd.host-1-2f.tmp"
    temp.parent.mkdir(parents=True)
    temp.write_bytes(bytes(10))
    found = by_name(shell.json("doctor"))["store/leftover files"]
    assert (found["state"], found["value"]) == ("note", 1)
    assert temp.exists()


def test_doctor_refuses_a_home_that_is_a_file(shell: Shell) -> None:
    shell.home.write_text("not a folder")
    report = shell.json("doctor", shell.folder / "elsewhere", code=2)
    assert report["usable"] is False
    assert states(report, "store")["get"] == "ok"
    assert states(report, "machine")["home"] == "failure"


def test_doctor_opens_no_catalog_that_is_not_todays(shell: Shell) -> None:
    """One of a newer asyncart is a failure, another database too; neither is touched."""
    shell.home.mkdir()
    catalog = shell.home / "catalog.sqlite"
    with contextlib.closing(sqlite3.connect(catalog)) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
    before = catalog.read_bytes()
    report = shell.json("doctor", code=2)
    assert "9999" in by_name(report)["catalog/schema"]["text"]
    assert "catalog/catalog" not in by_name(report)
    assert catalog.read_bytes() == before
    catalog.write_bytes(b"this is no database at all" * 100)
    assert states(shell.json("doctor", code=6), "catalog")["schema"] == "failure"


def test_doctor_warns_of_a_write_ahead_log(shell: Shell) -> None:
    shell.write("data/a.txt", "one")
    shell("put", "data", "bikes")
    with contextlib.closing(sqlite3.connect(shell.home / "catalog.sqlite")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        report = shell.json("doctor")
    assert states(report, "catalog")["journal"] == "warning"


def test_doctor_sees_that_the_catalog_means_another_store(shell: Shell) -> None:
    shell.write("data/a.txt", "one")
    shell("put", "data", "bikes")
    elsewhere = {**shell.environment, "ASYNCART_OBJECTS": str(shell.folder / "elsewhere")}
    done = shell.run("doctor", "--json", env=elsewhere)
    assert done.returncode == 2
    assert "elsewhere" in by_name(json.loads(done.stdout))["catalog/catalog"]["text"]


def test_doctor_says_what_is_wrong_with_a_url(shell: Shell) -> None:
    for url in ("ftp://somewhere", "s3://", "s3://bucket/a//b"):
        report = shell.json("doctor", url, code=2)
        assert states(report, "store") == {"URL": "failure"}


def test_doctor_says_what_is_wrong_with_a_folder(shell: Shell) -> None:
    """And `put` and `bench` say the same: it is about the folder, not about an object that nobody asked for."""
    shell.write("data/a.txt", "one")
    (shell.folder / "taken").write_text("not a folder")
    (shell.folder / "link").symlink_to("nowhere")
    for store in ("taken", "taken/below", "link"):
        said = f"{shell.folder}/{store.partition('/')[0]} is not a folder, and objects belong there: move it"
        report = shell.json("doctor", f"{shell.folder}/{store}", code=6)
        assert by_name(report)["store/put"]["text"].startswith(said)
        done = shell.run(
            "put", "data", env={**shell.environment, "ASYNCART_OBJECTS": f"{shell.folder}/{store}"}
        )
        [line] = done.stderr.splitlines()
        assert (done.returncode, line.startswith(f"asyncart: Unavailable: {said}")) == (6, True)
        shutil.rmtree(shell.home)
        done = shell.run("bench", store, "--size", "1M", "--files", "1")
        assert (done.returncode, done.stderr.startswith(f"asyncart: Unavailable: {said}")) == (
            6,
            True,
        )


# --- doctor: a bucket ---


def test_doctor_tries_out_a_bucket_and_leaves_nothing(shell: Shell, bucket: Bucket) -> None:
    """SeaweedFS does everything right but one thing: it takes small parts."""
    report = shell.json("doctor", bucket.url)
    assert report["usable"] is True
    assert report["store"] == bucket.url
    found = by_name(report)
    small_parts = found.pop("store/small parts")
    assert small_parts["state"] in ("ok", "note")
    values = {name: finding["value"] for name, finding in found.items()}
    assert set(states(report, "store").values()) <= {"ok", "note"}
    assert values["store/206"] == 206
    assert values["store/checksums"] == "CRC64NVME"
    assert values["store/If-None-Match"] is True
    assert values["store/expired URLs"] is True
    assert values["store/lost uploads"] is True
    assert values["store/abort"] is True
    assert abs(values["store/clock"]) <= 2
    assert 0 < values["store/latency"] < 10
    assert values["store/leftover uploads"] == 0
    assert found["store/multipart"]["state"] == "ok"
    assert found["store/credentials"]["state"] == "ok"
    assert bucket.keys() == []
    assert bucket.uploads() == []


def test_doctor_counts_open_uploads(shell: Shell, bucket: Bucket, seaweedfs: S3Server) -> None:
    key = f"{bucket.prefix}/objects/ab/unfinished"
    upload = bucket.client.create_multipart_upload(Bucket=seaweedfs.bucket, Key=key)["UploadId"]
    found = by_name(shell.json("doctor", bucket.url))["store/leftover uploads"]
    assert (found["state"], found["value"]) == ("note", 1)
    assert bucket.uploads() == [key]
    bucket.client.abort_multipart_upload(Bucket=seaweedfs.bucket, Key=key, UploadId=upload)


def test_doctor_names_bad_credentials(
    shell: Shell, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    report = shell.json("doctor", bucket.url, code=5)
    found = by_name(report)
    assert found["store/clock"]["state"] == "ok"
    assert "SignatureDoesNotMatch" in found["store/reachable"]["text"] + str(
        found.get("store/credentials")
    )
    assert "store/put" not in found
    assert found["machine/home"]["state"] == "ok"


def test_doctor_names_a_missing_bucket(shell: Shell, bucket: Bucket) -> None:
    report = shell.json("doctor", "s3://no-such-bucket/x", code=6)
    assert "no such bucket" in by_name(report)["store/reachable"]["text"]


def test_doctor_names_an_endpoint_that_does_not_answer(
    shell: Shell, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    report = shell.json("doctor", bucket.url, code=6)
    assert endpoint in by_name(report)["store/reachable"]["text"]
    assert list(states(report, "store")) == ["reachable"]


# --- bench ---


def test_bench_measures_a_folder_and_leaves_nothing(shell: Shell) -> None:
    report = shell.json("bench", "--size", "20M", "--files", "30")
    speeds = {speed["name"]: speed for speed in report["speeds"]}
    assert list(speeds) == SPEEDS
    assert speeds["upload"]["bytes"] == speeds["download"]["bytes"] == 20 << 20
    assert speeds["upload"]["requests"] == 3
    assert speeds["small objects down"]["requests"] == 30
    assert all(speed["bytes_per_second"] > 0 for speed in speeds.values())
    assert report["bottleneck"].startswith("uploads are limited by ")
    assert not shell.home.exists()


def test_bench_measures_a_bucket_and_leaves_nothing(shell: Shell, bucket: Bucket) -> None:
    lines = shell("bench", bucket.url, "--size", "70M", "--files", "50").splitlines()
    assert [line[:20].rstrip() for line in lines[:-2]] == SPEEDS
    assert "; downloads by " in lines[-1]
    assert bucket.keys() == []
    assert bucket.uploads() == []


def test_bench_ends_when_its_time_is_over(shell: Shell) -> None:
    """Of 1 TiB and a million files only the first requests are made, and these are measured."""
    report = shell.json("bench", "--size", "1T", "--files", "1000000", "--seconds", "0.001")
    speeds = {speed["name"]: speed for speed in report["speeds"]}
    assert 0 < speeds["upload"]["bytes"] < 2 << 30
    assert 0 < speeds["small objects up"]["requests"] < 100_000
    assert speeds["download"]["bytes"] > 0
    assert not shell.home.exists()


def test_bench_interrupted_leaves_nothing(shell: Shell, bucket: Bucket) -> None:
    process = shell.start("bench", bucket.url, "--size", "1G", "--files", "1000000")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"disk write"):  # the upload has begun, or is about to
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert bucket.uploads() == []
    assert bucket.keys() == []


def test_bench_refuses_nonsense(shell: Shell) -> None:
    assert "--size" in shell.error("bench", "--size", "much", code=2)
    assert "positive" in shell.error("bench", "--size", "0", code=2)
    assert "no such bucket" not in shell.run("bench", "ftp://x", "--size", "1M").stdout


def speeds(**mib_per_s: float) -> dict[str, Speed]:
    return {
        name.replace("_", " "): Speed(name, int(rate * (1 << 20)), 1.0)
        for name, rate in mib_per_s.items()
    }


def test_the_bottleneck_is_the_slowest_stage_of_each_direction() -> None:
    found = speeds(
        **{"upload": 180, "download": 900, "hash_and_chunk": 4096, "hash": 8192},
        **{"disk_read": 1024, "disk_write": 300},
    )
    assert bottleneck(found) == (
        "uploads are limited by the store, 180.0 MiB/s (reading the disk 1.0 GiB/s, hashing 4.0 GiB/s);"
        " downloads by writing the disk, 300.0 MiB/s (the store 900.0 MiB/s, hashing 8.0 GiB/s)"
    )


def test_a_client_without_a_spare_core_is_the_bottleneck_itself() -> None:
    found = speeds(
        upload=180, download=90, hash_and_chunk=999, hash=999, disk_read=999, disk_write=999
    )
    found["upload"] = Speed("upload", 180 << 20, 1.0, 23, cpu_s=0.95)
    up, down = bottleneck(found).split("; ")
    assert "this process" in up
    assert "the store, 90.0 MiB/s" in down


# --- python -m bench s3 ---


def test_cpu_targets_are_told_as_such() -> None:
    """Beside the wall time; what is compared are CPU seconds, ours without the allowance for hashing."""
    cheaper = Row("row", "", (Target(1 / 1.5, "obstore", measure="cpu_s", as_speedup=True),))
    at_most = Row("row", "", (cpu_at_most(1, "obstore", label="in CPU s"),), shows_cpu=True)
    found = Results()
    found.add("row", "asyncart", Measurement(5.0, cpu_s=2.0))
    found.add("row", "obstore", Measurement(4.0, cpu_s=4.0))
    (less,), (most,) = judge(cheaper, found), judge(at_most, found)
    assert report.told(less) == "2.0x less CPU than obstore (at least 1.5x): met"
    assert report.told(most) == "0.50x obstore in CPU s (at most 1.00x): met"
    rendered = report.markdown([at_most], report.Record("s3", {}, found))
    assert "| 5.00 s (CPU 2.00 s) | obstore 4.00 s (CPU 4.00 s) |" in rendered


def test_the_s3_suite_counts_what_we_ask_of_the_server(tmp_path: Path, seaweedfs: S3Server) -> None:
    """Nothing for an unchanged tree, three requests for one file, only changed bytes for 1%."""
    record, work = tmp_path / "record.json", tmp_path / "work"
    work.mkdir()
    command = [
        *(sys.executable, "-m", "bench", "s3", "--quick", "--peers", "none"),
        *("upload-again", "one-file", "upload-changed"),
        *("--dir", str(work), "--json", str(record)),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(record.read_text(encoding="utf-8"))["results"]["measured"]

    def extras(row: str, name: str) -> list[float]:
        return [one["extra"][name] for one in measured[row]["asyncart"]]

    assert extras("upload-changed", "requests")[0] > 0
    assert extras("upload-again", "requests") == [0]
    assert all(0 < requests <= 3 for requests in extras("one-file", "requests"))
    assert extras("upload-changed", "sent_over_changed")[0] < 1.1
    assert set(measured) == {"upload-again", "one-file", "upload-changed"}
