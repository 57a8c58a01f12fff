"""An HTTP proxy on 127.0.0.1 that fails on purpose, and counts what passes through.

It stands between a client and one real server (which it talks to in plain HTTP) and understands just
enough of HTTP/1.1 to fail at an exact place: before the head, after so many bytes of the body, with
another status. `inject` a fault for one request, three, or all that come; it says nothing about the
rest. `requests`, `exchanges` and the byte counters tell tests what was really sent.

Also a forward proxy: a request for an absolute URL goes where the URL says.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

STATUSES: dict[str, tuple[int, str] | tuple[int, str, str]] = {
    "400": (400, "InvalidRequest"),
    "403": (403, "AccessDenied"),
    "403-expired": (403, "AccessDenied", "Request has expired"),
    "404": (404, "NoSuchKey"),
    "408": (408, "RequestTimeout"),
    "409": (409, "OperationAborted"),
    "412": (412, "PreconditionFailed"),
    "416": (416, "InvalidRange"),
    "429": (429, "TooManyRequests"),
    "500": (500, "InternalError"),
    "502": (502, "BadGateway"),
    "503": (503, "SlowDown"),
}

# faults of the connection, before the request is looked at
CONNECTION_FAULTS = ("refuse", "black-hole")
# faults between the request's head and the answer's
REQUEST_FAULTS = ("reset-before-head", "stall-before-head", "garbage")
# faults in the request's body
UPLOAD_FAULTS = ("reset-in-upload", "stall-in-upload", "early-503", "early-200")
# faults in the answer's body
BODY_FAULTS = (
    "reset-after-head",
    "reset-at-1",
    "reset-at-half",
    "reset-at-last",
    "reset-after-body",
    "stall-after",
    "stall",
    "drip",
    "trickle",
    "truncate",
    "flip",
)
# answers that are no answer to the question
LIES = ("error-200", "wrong-range", "ignore-range", "gzip", "long", "short")
KINDS = (*CONNECTION_FAULTS, *REQUEST_FAULTS, *UPLOAD_FAULTS, *BODY_FAULTS, *LIES, *STATUSES)


@dataclass
class Fault:
    kind: str
    left: float  # how many requests it still hits; inf for all
    method: str | None = None
    path: str | None = None
    query: str | None = None  # what the query must contain; "" for: there must be none
    passes: int = 0  # how many such requests still come through unharmed

    def hits(self, method: str, path: str, query: str) -> bool:
        is_meant = (
            self.left > 0
            and self.method in (None, method)
            and (self.path is None or path.startswith(self.path))
            and (self.query is None or (self.query in query if self.query else not query))
        )
        if is_meant and self.passes:
            self.passes -= 1
            return False
        return is_meant


class Exchange(NamedTuple):
    """A request that reached the server, and what the server (not the fault) answered."""

    method: str
    target: str
    status: int
    sent: int  # bytes of the request's body


@dataclass
class Message:
    line: str
    headers: dict[str, str]
    body: bytes = b""

    def encode(self) -> bytes:
        return self.head() + self.body

    def head(self) -> bytes:
        lines = [self.line, *(f"{k}: {v}" for k, v in self.headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass
class FaultProxy:
    """`async with FaultProxy("127.0.0.1", port) as proxy:` then talk to `proxy.url`."""

    host: str
    port: int
    ssl_context: ssl.SSLContext | None = None
    drip_s: float = 1.0
    faults: list[Fault] = field(default_factory=list)
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    request_heads: list[Message] = field(default_factory=list)
    bytes_up: Counter[str] = field(default_factory=Counter)
    bytes_down: Counter[str] = field(default_factory=Counter)
    exchanges: list[Exchange] = field(default_factory=list)
    connections: int = 0

    async def __aenter__(self) -> FaultProxy:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self.ssl_context, limit=1 << 20
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        port = self._server.sockets[0].getsockname()[1]
        return f"http{'s' if self.ssl_context else ''}://127.0.0.1:{port}"

    def inject(
        self,
        kind: str,
        times: int | None = 1,
        *,
        method: str | None = None,
        path: str | None = None,
        query: str | None = None,
        passes: int = 0,
    ) -> None:
        assert kind in KINDS, kind
        left = float("inf") if times is None else times
        self.faults.append(Fault(kind, left, method, path, query, passes))

    def drop_connections(self) -> None:
        """Close those that are open, as a server does that restarts."""
        for task in self._tasks:
            task.cancel()

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    def clear(self) -> None:
        """No more faults, and counters at zero."""
        self.faults.clear()
        self.request_heads.clear()
        self.exchanges.clear()
        for counter in (self.requests, self.bytes_up, self.bytes_down):
            counter.clear()
        self.connections = 0

    def _take(self, kinds: tuple[str, ...], method: str, target: str) -> str | None:
        parts = urlsplit(target)
        for fault in self.faults:
            if fault.kind in kinds and fault.hits(method, parts.path, parts.query):
                fault.left -= 1
                return fault.kind
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, EOFError):
                while await self._one(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # the proxy is closing: this connection is over, and that is no error
        finally:
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; False when the connection is over."""
        for kind in CONNECTION_FAULTS:
            # before a byte is read there is neither method nor path: only faults for all count
            if self._take((kind,), "", ""):
                if kind == "refuse":
                    return _reset(writer)
                return await _silence(reader)
        request = _parse(await reader.readuntil(b"\r\n\r\n"))
        method, target, _ = request.line.split(" ", 2)
        path = urlsplit(target).path
        self.requests[method, path] += 1
        self.request_heads.append(request)
        length = int(request.headers.get("content-length", "0"))
        if kind := self._take(UPLOAD_FAULTS, method, target):
            return await self._break_upload(kind, reader, writer, path, length)
        request.body = await reader.readexactly(length)
        self.bytes_up[path] += length
        if kind := self._take(REQUEST_FAULTS, method, target):
            if kind == "reset-before-head":
                return _reset(writer)
            if kind == "stall-before-head":
                return await _silence(reader)
            writer.write(b"\x16\x03 this is not HTTP\r\n\r\n")
            await writer.drain()
            return False
        if kind := self._take(tuple(STATUSES), method, target):
            await self._send(writer, path, _status(*STATUSES[kind]))
            return True
        kind = self._take((*BODY_FAULTS, *LIES), method, target) or ""
        if kind == "ignore-range":
            request.headers.pop("range", None)
        if kind == "flip" and request.body:
            request.body = _flipped(request.body)
            kind = ""
        answer = await self._ask(request, target)
        status = int(answer.line.split(" ", 2)[1])
        self.exchanges.append(Exchange(method, target, status, length))
        return await self._answer(kind, reader, writer, path, answer)

    async def _break_upload(
        self,
        kind: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        path: str,
        length: int,
    ) -> bool:
        some = await reader.readexactly(min(length // 2, 64 << 10))
        self.bytes_up[path] += len(some)
        if kind == "reset-in-upload":
            return _reset(writer)
        if kind == "early-503":
            await self._send(writer, path, _status(503, "SlowDown"))
        elif kind == "early-200":
            await self._send(writer, path, Message("HTTP/1.1 200 OK", {"Content-Length": "0"}))
        # and read no further: the sender's buffers fill, or it waits for an answer
        await asyncio.sleep(3600)
        return False

    async def _ask(self, request: Message, target: str) -> Message:
        """Pass it on to the server, over a connection of its own."""
        parts = urlsplit(target)
        host, port = parts.hostname or self.host, parts.port or self.port
        if parts.scheme:
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            request.line = request.line.replace(target, path, 1)
        request.headers["connection"] = "close"
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
        try:
            writer.write(request.encode())
            answer = _parse(await reader.readuntil(b"\r\n\r\n"))
            if request.line.startswith("HEAD "):
                pass  # its length is that of the body that does not follow
            elif "content-length" in answer.headers:
                answer.body = await reader.readexactly(int(answer.headers["content-length"]))
            else:
                answer.body = await reader.read()
        finally:
            writer.transport.abort()
        answer.headers.pop("connection", None)
        if not {"content-length", "transfer-encoding"} & answer.headers.keys():
            answer.headers["connection"] = "close"
        return answer

    async def _answer(
        self,
        kind: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        path: str,
        answer: Message,
    ) -> bool:
        size = len(answer.body)
        if kind == "stall-after":  # done, and nobody hears of it
            return await _silence(reader)
        stops = {
            "reset-after-head": 0,
            "reset-at-1": min(1, size),
            "reset-at-half": size // 2,
            "reset-at-last": max(0, size - 1),
            "reset-after-body": size,
            "stall": size // 2,
            "truncate": size // 2,
        }
        if kind in stops:
            whole, answer.body = answer.body, answer.body[: stops[kind]]
            await self._send(writer, path, answer)
            if kind == "truncate":
                return False
            if kind == "stall":
                return await _silence(reader)
            return _reset(writer)
        if kind in ("drip", "trickle"):
            step = 1 if kind == "drip" else max(1, size // 20)
            whole, answer.body = answer.body, b""
            await self._send(writer, path, answer)
            for at in range(0, size, step):
                writer.write(whole[at : at + step])
                await writer.drain()
                await asyncio.sleep(self.drip_s)
            return True
        _distort(kind, answer)
        await self._send(writer, path, answer)
        return answer.headers.get("connection") != "close"

    async def _send(self, writer: asyncio.StreamWriter, path: str, answer: Message) -> None:
        writer.write(answer.encode())
        self.bytes_down[path] += len(answer.body)
        while writer.transport.get_write_buffer_size():
            await writer.drain()
            await asyncio.sleep(0)


def _parse(head: bytes) -> Message:
    line, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {}
    for each in rest:
        name, _, value = each.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Message(line, headers)


def _status(status: int, code: str, said: str = "") -> Message:
    text = f"<Code>{code}</Code><Message>{said}</Message>"
    body = f"<?xml version='1.0'?><Error>{text}</Error>".encode()
    headers = {"Content-Length": str(len(body)), "Content-Type": "application/xml"}
    return Message(f"HTTP/1.1 {status} Injected", headers, body)


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def _distort(kind: str, answer: Message) -> None:
    """Change an answer into one that is wrong but arrives whole."""
    if kind == "flip":
        answer.body = _flipped(answer.body)
    elif kind == "error-200":
        wrong = _status(200, "InternalError")
        answer.line, answer.headers, answer.body = wrong.line, wrong.headers, wrong.body
    elif kind == "wrong-range":
        unit, _, rest = answer.headers.get("content-range", "bytes 0-0/1").partition(" ")
        span, _, total = rest.partition("/")
        first, _, last = span.partition("-")
        answer.headers["content-range"] = f"{unit} {int(first) + 1}-{int(last) + 1}/{total}"
    elif kind == "gzip":
        answer.body = gzip.compress(answer.body)
        answer.headers["content-encoding"] = "gzip"
        answer.headers["content-length"] = str(len(answer.body))
    elif kind == "long":
        answer.body += b"surplus"
        answer.headers["content-length"] = str(len(answer.body))
    elif kind == "short":
        answer.body = answer.body[:-1]
        answer.headers["content-length"] = str(len(answer.body))


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Close with RST, not FIN."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def _silence(reader: asyncio.StreamReader) -> bool:
    """Say nothing until the client goes away."""
    while await reader.read(1 << 16):
        pass
    return False
