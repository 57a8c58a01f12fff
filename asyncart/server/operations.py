"""What every request of a replica passes through, whatever it asks: hosts, counting, logging, draining.

`install` puts it around an application: a middleware that is the outermost one, a signal that sees every
answer before its head is sent, an access log (which sees also what never became a request), and the
routes `/healthz`, `/readyz` and `/metrics`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import anyio
import msgspec
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from . import gate, logs
from .drain import Drain
from .failures import HEADER, KEY_ID
from .health import Health, Readiness
from .metrics import CONTENT_TYPE, Metrics, Sample

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STARTED_AT = web.RequestKey("started_at", float)
CLIENT_GONE = 499  # as nginx has it
SAMPLES_S = 1.0  # what a scrape waits for the catalog, at most


class Operations:
    def __init__(
        self,
        drain: Drain,
        readiness: Readiness,
        metrics: Metrics,
        read_samples: Callable[[], Awaitable[list[Sample]]] | None = None,
        check_watcher: Callable[[web.Request], Awaitable[None]] | None = None,
    ) -> None:
        """`check_watcher` raises for those to whom metrics are not shown."""
        self.drain = drain
        self.readiness = readiness
        self.metrics = metrics
        self._read_samples = read_samples
        self._check_watcher = check_watcher

    def install(self, app: web.Application) -> None:
        """Before the application is started."""
        app.middlewares.insert(0, self._around)
        app.on_response_prepare.append(self._before_head)
        app.router.add_get("/healthz", self._healthz, name="healthz")
        app.router.add_get("/readyz", self._readyz, name="readyz")
        app.router.add_get("/metrics", self._metrics, name="metrics")

    def access_log(self) -> type[AbstractAccessLogger]:
        """The class that the application's runner is to make its access logs of."""
        metrics = self.metrics

        class AccessLog(AbstractAccessLogger):
            def log(
                self, request: web.BaseRequest, response: web.StreamResponse, duration_s: float
            ) -> None:
                _account(metrics, request, response, duration_s)

        return AccessLog

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request[STARTED_AT] = time.perf_counter()
        with self.drain.answering():
            try:
                return await handler(request)
            except ConnectionError:
                if request.transport is not None:
                    raise
                # The client is gone: nobody reads this, but it makes a line in the log and no traceback.
                return web.Response(status=CLIENT_GONE, reason="Client Closed Request")

    async def _before_head(self, request: web.Request, response: web.StreamResponse) -> None:
        if self.drain.is_draining:
            response.force_close()
            response.headers["Connection"] = "close"

    async def _healthz(self, request: web.Request) -> web.Response:
        return _json(Health(True), 200)

    async def _readyz(self, request: web.Request) -> web.Response:
        health = await self.readiness.look()
        return _json(health, 200 if health.is_ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        if self._check_watcher is not None:
            await self._check_watcher(request)
        extra = [
            Sample(
                "asyncart_requests_in_flight",
                "gauge",
                "Requests being answered, this one included.",
                self.drain.in_flight,
            )
        ]
        if self._read_samples is not None:
            with anyio.move_on_after(SAMPLES_S):
                try:
                    extra += await self._read_samples()
                except Exception as error:  # what we count ourselves is told in any case
                    logs.failure("metrics without the catalog", error)
        answer = web.Response(body=self.metrics.render(extra).encode())
        answer.headers["Content-Type"] = CONTENT_TYPE
        return answer


def _json(value: Health, status: int) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, content_type="application/json")


def _account(
    metrics: Metrics, request: web.BaseRequest, response: web.StreamResponse, duration_s: float
) -> None:
    """Count one answer, and write its line. The route is its name: never the path, which holds names."""
    route = route_of(request)
    if (started_at := request.get(STARTED_AT)) is not None:
        duration_s = time.perf_counter() - started_at  # uvloop's clock, aiohttp's, counts in ms
    sent = response.body_length or response.content_length or 0
    metrics.observe(
        route,
        request.method,
        response.status,
        duration_s,
        received_bytes=request.content_length or 0,
        sent_bytes=sent,
    )
    is_probe = f"/{route}" in gate.OPEN_PATHS
    fields = {
        "route": route,
        "method": request.method,
        "status": response.status,
        "duration_ms": round(duration_s * 1000, 2),
        "sent_bytes": sent,
    }
    if key_id := request.get(KEY_ID):
        fields["key_id"] = key_id
    if identity := response.headers.get(HEADER):
        fields["request_id"] = identity
    logs.event("request", level=logging.DEBUG if is_probe else logging.INFO, **fields)


def route_of(request: web.BaseRequest) -> str:
    """The name of the route, "unmatched" for a path that is none, "malformed" for what is not HTTP."""
    if not isinstance(request, web.Request) or STARTED_AT not in request:
        return "malformed"  # aiohttp makes an answer of it, for which there is no route to ask for
    route = request.match_info.route
    resource = route.resource
    return route.name or (resource.canonical if resource is not None else "unmatched")
