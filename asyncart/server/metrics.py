"""What a replica counts, as Prometheus reads it (text format 0.0.4).

A label never holds what a client chose: routes are templates, methods and statuses are few, so that the
number of series is bounded by the API and not by its users. Written here and not taken from
`prometheus_client`, because counters, one histogram and some gauges are a page of code.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    name: str
    kind: str  # "counter" or "gauge"
    help: str
    value: float


class _Latency:
    __slots__ = ("buckets", "count", "sum_s")

    def __init__(self) -> None:
        self.buckets = [0] * len(BUCKETS_S)
        self.count = 0
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.sum_s += seconds
        for index, limit in enumerate(BUCKETS_S):
            if seconds <= limit:
                self.buckets[index] += 1
                return


class Metrics:
    """Changed on the event loop only."""

    def __init__(self) -> None:
        self._requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._latency: defaultdict[str, _Latency] = defaultdict(_Latency)
        self._received_bytes = 0
        self._sent_bytes = 0
        self._started_at = time.time()

    def observe(
        self,
        route: str,
        method: str,
        status: int,
        duration_s: float,
        *,
        received_bytes: int = 0,
        sent_bytes: int = 0,
    ) -> None:
        """One request was answered."""
        self._requests[route, method if method in METHODS else "other", status] += 1
        self._latency[route].add(duration_s)
        self._received_bytes += received_bytes
        self._sent_bytes += sent_bytes

    def render(self, extra: Iterable[Sample] = ()) -> str:
        lines = [
            "# HELP asyncart_requests_total Requests answered.",
            "# TYPE asyncart_requests_total counter",
        ]
        for (route, method, status), count in sorted(self._requests.items()):
            labels = (("route", route), ("method", method), ("status", str(status)))
            lines.append(_line("asyncart_requests_total", labels, count))
        lines += self._latency_lines()
        for sample in (*self._own_samples(), *extra):
            lines += [
                f"# HELP {sample.name} {sample.help}",
                f"# TYPE {sample.name} {sample.kind}",
                _line(sample.name, (), sample.value),
            ]
        return "\n".join(lines) + "\n"

    def _latency_lines(self) -> list[str]:
        name = "asyncart_request_seconds"
        lines = [
            f"# HELP {name} From the request's head to the end of the answer.",
            f"# TYPE {name} histogram",
        ]
        for route, latency in sorted(self._latency.items()):
            total = 0
            for limit, count in zip(BUCKETS_S, latency.buckets, strict=True):
                total += count
                lines.append(
                    _line(f"{name}_bucket", (("route", route), ("le", f"{limit:g}")), total)
                )
            lines.append(_line(f"{name}_bucket", (("route", route), ("le", "+Inf")), latency.count))
            lines.append(_line(f"{name}_sum", (("route", route),), latency.sum_s))
            lines.append(_line(f"{name}_count", (("route", route),), latency.count))
        return lines

    def _own_samples(self) -> Iterable[Sample]:
        yield Sample(
            "asyncart_received_bytes_total",
            "counter",
            "Bytes of request bodies.",
            self._received_bytes,
        )
        yield Sample("asyncart_sent_bytes_total", "counter", "Bytes of answers.", self._sent_bytes)
        yield Sample(
            "process_start_time_seconds", "gauge", "When the process started.", self._started_at
        )
        if (rss_bytes := resident_bytes()) is not None:
            yield Sample(
                "process_resident_memory_bytes", "gauge", "Memory of the process.", rss_bytes
            )
        yield Sample("process_cpu_seconds_total", "counter", "CPU time.", time.process_time())


def resident_bytes() -> int | None:
    """Memory of this process; None where /proc does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _line(name: str, labels: Labels, value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    number = f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f"{name}{{{shown}}} {number}" if shown else f"{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
