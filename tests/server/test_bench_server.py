"""`python -m bench server --quick` runs; the numbers of requests are exact, and so they are promised here.

And what the rows of that suite must not hide.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from quick_bench import measured
from services import server_in_thread

import asyncart.aio
from asyncart.errors import Unavailable
from bench.bucket import S3Server
from bench.case import Plan, Results, judge
from bench.measure import CommandFailed
from bench.replicas import Cluster
from bench.server import clients, rows
from bench.server.chaos import Load, Outcome, run_load
from bench.server.history import Answer, Logged
from bench.server.memory import slope
from bench.server.place import Place


def test_requests_of_a_warm_client(tmp_path: Path) -> None:
    """A small artifact takes at most four round trips to be logged, and one to be downloaded again."""
    found = measured(tmp_path, "server", "team-warm")
    assert sorted(found) == ["team-digests", "team-get-warm", "team-log-warm"]
    (logged,) = found["team-log-warm"]["asyncart"]
    assert logged["extra"]["requests"] <= 4
    (fetched,) = found["team-get-warm"]["asyncart"]
    assert fetched["extra"]["requests"] == 1


def test_a_slope() -> None:
    assert slope([0, 1, 2, 3], [5, 5, 5, 5]) == 0
    assert slope([0, 1, 2, 3], [1, 3, 5, 7]) == pytest.approx(2)
    assert slope([1], [7]) == 0


def test_a_load_that_does_nothing_is_a_failure(tmp_path: Path) -> None:
    """Here its clients have no key. What is measured while nobody works would be met by everybody."""
    with server_in_thread(home=str(tmp_path / "home"), no_auth=False) as url:
        cluster = Cluster(url, [], tmp_path / "faults")
        with pytest.raises(CommandFailed, match=r"(?s)nothing was logged.*Denied"):
            run_load(cluster, Load(1, 1, 1, 1), tmp_path / "clients")


async def test_a_client_that_gives_up_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(asyncart.aio.Run):
        def __init__(self) -> None: ...

        async def log_artifact(self, *args: object, **options: object) -> asyncart.aio.Artifact:
            raise Unavailable("no")

    monkeypatch.setattr(clients, "ATTEMPTS", 2)
    load = {"first": 0, "clients": 1, "logs": 1, "collections": 1, "files": 1, "file_bytes": 1}
    client = clients.Clients({**load, "looks": False, "project": "p", "folder": str(tmp_path)})
    assert not await client._log(Refusing(), "0-0", "c0", alias=False)
    assert client.answer.given_up == ["0-0"]
    assert len(client.answer.errors) == 2


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(
        parent=tmp_path,
        tmpfs=tmp_path,
        cache=tmp_path,
        peers=[],
        rounds=1,
        slow_rounds=1,
        scale=0.01,
        million=False,
        minutes=1.0,
        say=lambda text: None,
    )


@pytest.fixture
def something_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No servers: a load that logged one artifact, which was not there when somebody looked."""
    logged = Logged("0-0", "c0", 0, "digest", begun_at=1.0, ended_at=2.0, attempts=1)
    found = Place(Cluster("http://127.0.0.1:1", [], tmp_path / "faults"), S3Server(""))
    outcome = Outcome(Answer([logged]), 1.0)
    monkeypatch.setattr(rows, "place", lambda *args, **options: nullcontext(found))
    monkeypatch.setattr(rows, "run_load", lambda *args, **options: outcome)
    monkeypatch.setattr(rows, "check", lambda *args: [*outcome.problems, "0-0: c0:v0 is missing"])


@pytest.mark.usefixtures("something_lost")
def test_a_version_that_is_lost_misses_the_target(plan: Plan) -> None:
    results = Results()
    rows.measure_many(plan, results, frozenset())
    verdicts = {verdict.target.measure: verdict.is_met for verdict in judge(rows.MANY, results)}
    assert verdicts == {"each_s": True, "errors": True, "problems": False}


@pytest.mark.usefixtures("something_lost")
def test_the_memory_of_servers_that_lose_versions_is_not_recorded(plan: Plan) -> None:
    results = Results()
    with pytest.raises(CommandFailed, match="0-0: c0:v0 is missing"):
        rows.measure_memory(plan, results, frozenset())
    assert results.measured == {}
