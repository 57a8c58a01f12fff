"""The application: the routes of `wire.ROUTES`, their description, and bytes where the store has no URLs.

Around all of them: a request id, errors as `wire.Failure`, and the Host and Origin of who asks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from . import bytes as bytes_module
from . import failures, gate, openapi, urls
from .context import ServerContext
from .routing import Router

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTEXT = web.AppKey("context", ServerContext)

KEEP_ALIVE_S = 75.0  # a client's pool keeps a connection for 60 s at most
HEAD_LINE_BYTES = 16 << 10  # of the request line and of one header: names and selectors are short
HEAD_FIELDS = 64
READ_BYTES = (
    256 << 10
)  # of a body, before somebody reads it; for bytes that pass through (see `bytes`)
LINGERING_S = 5.0  # for the rest of a body that was refused

RUNNER_OPTIONS: dict[str, Any] = {
    "keepalive_timeout": KEEP_ALIVE_S,
    "max_line_size": HEAD_LINE_BYTES,
    "max_field_size": HEAD_LINE_BYTES,
    "max_headers": HEAD_FIELDS,
    "lingering_time": LINGERING_S,
    "read_bufsize": READ_BYTES,
    "auto_decompress": False,  # bodies are taken as they are, and refused if they say otherwise
}


def make_app(context: ServerContext) -> web.Application:
    """RuntimeError if a route has no handler or no policy; Invalid for a store that has no URLs at all."""
    urls.check_store(context.store)
    app = web.Application(middlewares=[failures.rendered, _for_us(context)])
    app[CONTEXT] = context
    app.on_response_prepare.append(failures.stamp)
    Router(context).add_to(app)
    openapi.add_to(app)
    if bytes_module.is_needed(context.store):
        bytes_module.add_to(app, context)
    return app


def _for_us(context: ServerContext) -> Any:
    names = frozenset(name.lower() for name in context.settings.hosts)

    @web.middleware
    async def for_us(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in gate.OPEN_PATHS:
            host = request.headers.get("Host", "")
            if names:
                gate.check_host(host, names)
            own = gate.own_origins(host, context.settings.public_url or "")
            gate.check_origin(request.headers.get("Origin"), own)
        return await handler(request)

    return for_us
