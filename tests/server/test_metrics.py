"""Metrics are what Prometheus reads, and their number does not depend on what clients send."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from talk import in_folder, served

from asyncart.server import gate
from asyncart.server.app import make_app
from asyncart.server.drain import Drain
from asyncart.server.metrics import BUCKETS_S, Metrics, Sample
from asyncart.server.serve import make_operations


def values(text: str) -> dict[str, float]:
    """Series -> value; fails on a line that is neither a comment nor a sample."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) [a-z_]+ .+", line), line
            continue
        match = re.fullmatch(r'([a-z_]+(?:\{(?:[a-z]+="(?:[^"\\]|\\.)*",?)+\})?) (\S+)', line)
        assert match, line
        assert match[1] not in found, f"twice: {line}"
        found[match[1]] = float(match[2])
    return found


def test_requests_are_counted_by_route_method_and_status() -> None:
    metrics = Metrics()
    metrics.observe("resolve", "GET", 200, 0.001)
    metrics.observe("resolve", "GET", 200, 0.001)
    metrics.observe("resolve", "GET", 404, 0.001)
    found = values(metrics.render())
    series = 'asyncart_requests_total{route="resolve",method="GET",status="%s"}'
    assert (found[series % 200], found[series % 404]) == (2, 1)


def test_buckets_are_cumulative_and_the_last_one_holds_all() -> None:
    metrics = Metrics()
    for duration_s in (0.001, 0.002, 0.0021, 1e9):  # below, at and above a limit; beyond all
        metrics.observe("resolve", "GET", 200, duration_s)
    found = values(metrics.render())
    series = 'asyncart_request_seconds_bucket{route="resolve",le="%s"}'
    counts = [found[series % f"{limit:g}"] for limit in BUCKETS_S] + [found[series % "+Inf"]]
    assert counts[:2] == [2, 3]
    assert counts == sorted(counts)
    assert counts[-2:] == [3, 4]
    assert found['asyncart_request_seconds_count{route="resolve"}'] == 4
    assert found['asyncart_request_seconds_sum{route="resolve"}'] > 1e9


def test_bytes_add_up_and_further_samples_are_told() -> None:
    metrics = Metrics()
    metrics.observe("put", "PUT", 200, 0.1, received_bytes=10, sent_bytes=3)
    metrics.observe("get", "GET", 200, 0.1, received_bytes=0, sent_bytes=1 << 40)
    found = values(metrics.render([Sample("asyncart_sessions", "gauge", "Writers.", 7)]))
    assert found["asyncart_received_bytes_total"] == 10
    assert found["asyncart_sent_bytes_total"] == (1 << 40) + 3
    assert found["asyncart_sessions"] == 7
    assert found["process_resident_memory_bytes"] > 1 << 20
    assert found["process_cpu_seconds_total"] > 0


def test_methods_that_a_client_made_up_make_no_series() -> None:
    metrics = Metrics()
    for number in range(100):
        metrics.observe("unmatched", f"X{number}", 405, 0.001)
    series = [
        each for each in values(metrics.render()) if each.startswith("asyncart_requests_total")
    ]
    assert series == ['asyncart_requests_total{route="unmatched",method="other",status="405"}']


@pytest.mark.parametrize("header", gate.PASSED_ON)
async def test_strangers_need_a_key_to_watch(tmp_path: Path, header: str) -> None:
    """Also behind a proxy on the server's own machine; on that machine itself nobody does."""
    async with served(*in_folder(tmp_path), has_accounts=True) as talk:
        app = make_app(talk.context)
        make_operations(talk.context, Drain()).install(app)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
            stranger = {header: "203.0.113.7"}
            async with aiohttp.ClientSession() as http:

                async def status(headers: dict[str, str]) -> int:
                    async with http.get(url, headers=headers) as answer:
                        assert ("asyncart_requests" in await answer.text()) is (
                            answer.status == 200
                        )
                        return answer.status

                assert await status({}) == 200
                assert await status(stranger) == 401
                assert await status({**stranger, "Authorization": "Bearer nonsense"}) == 401
                assert await status({**stranger, **talk.headers}) == 200
        finally:
            await runner.cleanup()


@pytest.mark.parametrize(
    ("address", "is_here"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True)]
    + [(address, False) for address in ("10.0.0.1", "203.0.113.7", "fe80::1", "", None)],
)
def test_who_is_on_this_machine(address: str | None, is_here: bool) -> None:
    assert gate.is_of_this_machine(address, {}) is is_here
