"""`asyncart server` as a process: how it starts, what it refuses, what it tells, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from services import PostgresServer, S3Server, server_in_thread

from asyncart.catalog import schema, upgrade
from asyncart.server import health
from asyncart.wire import PREFIX
from bench.processes import listens
from bench.replicas import Replica, is_ready, metrics_of, read_metrics, running_replica

LONG_S = "60"  # a grace period that no test waits out
PATIENCE_S = 20.0
OPEN = ("--no-auth", "--sweep-s", "0")


def ask(url: str, path: str, *, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    """One request on a connection of its own."""
    with closing(connection(url)) as talk:
        talk.request(method, path, headers=headers)
        answer = talk.getresponse()
        return answer, answer.read()


def connection(url: str) -> HTTPConnection:
    host, port = url.removeprefix("http://").split(":")
    return HTTPConnection(host, int(port), timeout=PATIENCE_S)


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def lines(replica: Replica) -> list[dict[str, Any]]:
    """What it logged: every line is JSON."""
    return [json.loads(line) for line in replica.said().splitlines()]


@contextmanager
def slow_request(url: str) -> Iterator[Callable[[], bytes]]:
    """A request whose body is not there yet; call what is given to send it and get the answer."""
    body = b'{"calls":[]}'
    with closing(connection(url)) as talk:
        talk.putrequest("POST", f"{PREFIX}/batch")
        talk.putheader("Content-Length", str(len(body)))
        talk.putheader("Content-Type", "application/json")
        talk.endheaders(body[:3])

        def finish() -> bytes:
            talk.send(body[3:])
            answer = talk.getresponse()
            assert answer.status == 200, answer.read()
            return answer.read()

        yield finish


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """A server that is left running."""
    folder = tmp_path_factory.mktemp("replica")
    with running_replica(folder, *OPEN, "--allow-host", "localhost") as found:
        yield found


class TestStarting:
    def test_without_options_it_serves_this_machine_from_its_home(self, tmp_path: Path) -> None:
        """The first administrator's key is told once, and is valid."""
        with running_replica(tmp_path, "--drain-s", "0") as first:
            key = first.key
            assert key
            answer, body = ask(first.url, f"{PREFIX}/me", Authorization=f"Bearer {key}")
            assert answer.status == 200, body
            assert ask(first.url, f"{PREFIX}/me")[0].status == 401
            assert key not in first.said()
            assert first.terminate() == 0
        assert (tmp_path / "home" / "server" / "catalog.sqlite").is_file()
        with running_replica(tmp_path) as second:
            assert second.key is None
            answer, body = ask(second.url, f"{PREFIX}/me", Authorization=f"Bearer {key}")
            assert answer.status == 200, body

    def test_for_people_it_says_where_it_is_and_how_to_log_in(self, tmp_path: Path) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "asyncart", "server", "--port", "0", "--log-format", "text"],
            env={**os.environ, "ASYNCART_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(4)]
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
        assert "http://127.0.0.1:" in said[0]
        assert said[2].strip().startswith("aart_")
        assert said[3].startswith("Use it: asyncart login http://127.0.0.1:")

    def test_options_may_come_from_the_environment(self, tmp_path: Path) -> None:
        environment = {"ASYNCART_SERVER_NO_AUTH": "1", "ASYNCART_SERVER_LOG_FORMAT": "text"}
        with running_replica(tmp_path, environment=environment) as found:
            assert ask(found.url, f"{PREFIX}/me")[0].status == 200
            assert "listening" in found.said()
            assert not found.said().startswith("{")


def refused(tmp_path: Path, *options: str) -> tuple[int, str]:
    """The exit code and the one line of a server that does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "asyncart", "server", *options],
        env={**os.environ, "ASYNCART_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    words = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(words) == 1, done.stderr
    return done.returncode, words[0]


class TestRefusing:
    def test_strangers_without_authentication(self, tmp_path: Path) -> None:
        """`test_server_options` has all the addresses."""
        code, words = refused(tmp_path, "--host", "0.0.0.0", "--no-auth", "--port", "0")
        assert code == 2
        assert "without authentication" in words
        assert list(tmp_path.iterdir()) == []  # nothing was opened

    def test_a_port_that_is_taken(self, tmp_path: Path) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as other:
            port = str(other.getsockname()[1])
            code, words = refused(tmp_path, "--port", port, "--no-auth")
        assert code == 6
        assert f"127.0.0.1:{port}" in words

    def test_a_start_that_failed_has_not_used_up_the_first_key(self, tmp_path: Path) -> None:
        """It is shown only once, so it is not made before there is a server that can be talked to."""
        home = tmp_path / "home"
        with closing(socket.create_server(("127.0.0.1", 0))) as other:
            assert refused(home, "--port", str(other.getsockname()[1]))[0] == 6
        with running_replica(tmp_path) as replica:
            answer, body = ask(replica.url, f"{PREFIX}/me", Authorization=f"Bearer {replica.key}")
            assert answer.status == 200, body

    def test_objects_that_are_elsewhere(self, tmp_path: Path) -> None:
        home = tmp_path / "one"
        with server_in_thread(home=str(home)):
            pass
        code, words = refused(home, "--objects", str(tmp_path / "two"), "--no-auth")
        assert code == 2
        assert "objects of this catalog are in default" in words
        assert words.endswith("start the server without --objects")

    def test_a_schema_that_it_does_not_know(
        self, tmp_path: Path, postgres_url: str, postgres: PostgresServer
    ) -> None:
        options = ("--catalog", postgres_url, "--objects", str(tmp_path / "store"), "--port", "0")
        _set_revision(postgres, postgres_url, schema.REVISIONS[0])
        code, words = refused(tmp_path, *options)
        assert code == 6
        assert "asyncart db upgrade" in words
        _set_revision(postgres, postgres_url, "9999")
        code, words = refused(tmp_path, *options)
        assert code == 2
        assert "use a newer asyncart" in words


def _set_revision(postgres: PostgresServer, url: str, revision: str) -> None:
    import anyio

    anyio.run(_upgraded_if_empty, url)
    statement = f"UPDATE alembic_version SET version_num = '{revision}'"
    postgres.execute(f"\\c {url.rpartition('/')[2]}", statement)


async def _upgraded_if_empty(url: str) -> None:
    from asyncart.catalog.opening import schema_state

    if (await schema_state(url)).is_empty:
        await upgrade(url)


class TestAnswering:
    def test_health(self, replica: Replica) -> None:
        for path in ("/healthz", "/readyz"):
            answer, body = ask(replica.url, path)
            assert (answer.status, json.loads(body)) == (200, {"is_ready": True, "problems": []})

    def test_hosts_and_origins(self, replica: Replica) -> None:
        """A page of another site cannot use it, under our name or under its own."""
        path = f"{PREFIX}/me"
        assert ask(replica.url, path)[0].status == 200
        assert ask(replica.url, path, Host="localhost")[0].status == 200
        assert ask(replica.url, path, Origin=replica.url)[0].status == 200
        answer, body = ask(replica.url, path, Host="evil.example")
        assert (answer.status, json.loads(body)["code"]) == (403, "denied")
        answer, body = ask(replica.url, path, Origin="http://evil.example")
        assert (answer.status, json.loads(body)["code"]) == (403, "denied")
        # whoever asks for health knows us by an address that we may not know ourselves
        assert ask(replica.url, "/readyz", Host="10.1.2.3")[0].status == 200

    def test_metrics_count_what_was_asked(self, replica: Replica) -> None:
        series = 'asyncart_requests_total{route="about_me",method="GET",status="200"}'

        def counted() -> int:
            answer, body = ask(replica.url, "/metrics")
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            found = read_metrics(body.decode())
            assert found["asyncart_requests_in_flight"] == 1
            assert found["asyncart_sessions"] == 0
            return int(found.get(series, 0))

        before = counted()
        ask(replica.url, f"{PREFIX}/me")
        assert counted() == before + 1

    def test_a_line_for_every_request_with_its_id_and_no_more_than_its_route(
        self, replica: Replica
    ) -> None:
        path = f"{PREFIX}/projects/secret-entity/p/collections/c/versions/v0"
        answer, _ = ask(
            replica.url,
            f"{path}?token=secret-query",
            **{"X-Request-Id": "line-1", "Authorization": "Bearer aart_k1_secretsecret_000000"},
        )
        wait_for(lambda: "line-1" in replica.said())
        (line,) = [line for line in lines(replica) if line.get("request_id") == "line-1"]
        assert (line["route"], line["method"], line["status"]) == ("resolve", "GET", answer.status)
        assert line["duration_ms"] > 0
        assert "secret" not in replica.said()

    def test_what_is_no_http_is_counted_and_harms_nobody(self, replica: Replica) -> None:
        """One line and one count for each, no traceback, and whoever listens hears that it was no HTTP."""
        host, port = replica.url.removeprefix("http://").split(":")
        pieces = (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"X" * 100_000 + b"\r\n\r\n")
        series = 'asyncart_requests_total{route="malformed",method="other",status="400"}'
        before = metrics_of(replica.url).get(series, 0)
        for garbage in pieces:
            with closing(socket.create_connection((host, int(port)), PATIENCE_S)) as talk:
                talk.sendall(garbage)
                answer = b""
                try:
                    while piece := talk.recv(65536):
                        answer += piece
                except ConnectionResetError:  # it does not read all of what is too long
                    pass
                assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 ")), (garbage, answer)
        wait_for(lambda: metrics_of(replica.url).get(series, 0) == before + len(pieces))
        routes = [line.get("route") for line in lines(replica)]
        assert routes.count("malformed") == before + len(pieces)
        assert "Traceback" not in replica.said()
        assert is_ready(replica.url)


class TestReadiness:
    """In this process: how often the replica looks is set here."""

    @pytest.fixture(autouse=True)
    def looks_often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(health, "KEEP_S", 0.05)

    def test_a_catalog_that_went_away(
        self, tmp_path: Path, postgres_url: str, postgres: PostgresServer
    ) -> None:
        """It is alive and not ready, and ready again when the database is back."""
        database = postgres_url.rpartition("/")[2]
        where = {"catalog": postgres_url, "objects": str(tmp_path / "store")}
        with server_in_thread(home=str(tmp_path), **where) as url:
            assert is_ready(url)
            postgres.execute(
                f"ALTER DATABASE {database} ALLOW_CONNECTIONS false",
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'",
            )
            wait_for(lambda: not is_ready(url))
            assert ask(url, "/healthz")[0].status == 200
            assert ask(url, "/metrics")[0].status == 200
            _, body = ask(url, "/readyz")
            (problem,) = json.loads(body)["problems"]
            assert problem.startswith("catalog")
            assert database not in problem
            postgres.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
            wait_for(lambda: is_ready(url))

    def test_a_schema_that_somebody_upgraded(
        self,
        tmp_path: Path,
        postgres_url: str,
        postgres: PostgresServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        where = {"catalog": postgres_url, "objects": str(tmp_path / "store")}
        with server_in_thread(home=str(tmp_path), **where) as url:
            assert is_ready(url)
            _set_revision(postgres, postgres_url, "9999")
            wait_for(lambda: not is_ready(url))
            assert "the schema is 9999" in caplog.text

    def test_a_bucket_that_went_away(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seaweedfs: S3Server
    ) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # takes, never answers
            endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
            environment = {**seaweedfs.environment(), "AWS_ENDPOINT_URL_S3": endpoint}
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setattr(health, "PATIENCE_S", 0.3)
            with server_in_thread(home=str(tmp_path), objects="s3://bucket/x") as url:
                answer, body = ask(url, "/readyz")
                assert answer.status == 503
                assert json.loads(body)["problems"][0].startswith("store")
                assert ask(url, "/healthz")[0].status == 200


class TestEnding:
    def test_a_request_in_flight_ends_and_new_ones_are_taken_meanwhile(
        self, tmp_path: Path
    ) -> None:
        with running_replica(tmp_path, *OPEN, "--drain-s", LONG_S) as found:
            with closing(connection(found.url)) as idle, slow_request(found.url) as finish:
                idle.request("GET", f"{PREFIX}/me")
                first = idle.getresponse()
                first.read()
                assert not first.will_close
                found.send_signal(signal.SIGTERM)
                wait_for(lambda: not is_ready(found.url))
                assert ask(found.url, "/healthz")[0].status == 200  # a new connection
                idle.request("GET", f"{PREFIX}/me")
                last = idle.getresponse()
                assert (last.status, last.headers["Connection"]) == (200, "close")
                last.read()
                found.send_signal(signal.SIGTERM)  # no more grace: the listening socket is closed
                wait_for(lambda: not listens(found.port))
                assert found.is_running
                assert json.loads(finish())["outcomes"] == []
            assert found.wait() == 0
        assert lines(found)[-1]["message"] == "ended"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_idle_connections_keep_nobody_waiting(self, number: int, tmp_path: Path) -> None:
        with (
            running_replica(tmp_path, *OPEN, "--drain-s", "0") as found,
            closing(connection(found.url)) as idle,
        ):
            idle.request("GET", f"{PREFIX}/me")
            idle.getresponse().read()
            found.send_signal(number)
            assert found.wait() == 0

    def test_requests_that_take_too_long_are_cut_off_in_the_end(self, tmp_path: Path) -> None:
        options = ("--drain-s", "0", "--stop-s", "0.2")
        with running_replica(tmp_path, *OPEN, *options) as found, slow_request(found.url):
            wait_for(lambda: _in_flight(found) == 2)
            assert found.terminate() == 0
        assert "cut off" in found.said()


def _in_flight(replica: Replica) -> int:
    return int(metrics_of(replica.url)["asyncart_requests_in_flight"])
