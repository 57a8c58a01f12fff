"""Non-blocking sockets, plain and TLS, that move bytes between the kernel and the caller's buffers.

Nothing here waits or knows HTTP. `receive_into` and `send` do what is possible at once and say how much it
was: None for "nothing, wait for the socket", 0 for "the peer has closed". Neither keeps a reference to
the caller's memory, so that closing the socket is all that a cancelled transfer needs.

TLS is an `ssl.MemoryBIO` pump: one large `recv_into` or `send` per 256 KiB of records. `ssl.SSLSocket` makes
two system calls per record of 16 KiB instead; per CPU second on loopback it gave 1.2 GB/s down and 1.3-1.8
up where the pump gave 1.5-1.8 and 1.5-1.9. Blocking sockets in threads gave 0.9-1.6 and 1.9-2.3, at a
thread per stream. Of the pump's time, OpenSSL's AES is most (3.3 GB/s in either direction, bio included,
with OpenSSL 3.0; its AES-256-GCM alone does 4.1, that of OpenSSL 4.0 on the same processor 10.7).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
from typing import Protocol

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TLS_CHUNK_BYTES = 256 << 10
TLS_RECORD_BYTES = 17 << 10  # 16 KiB, padding and header
# Linux wakes us only when this much has arrived, and answers with as few window updates as wake-ups. That
# needs room behind it: on a line without latency autotuning stays at some hundred KiB. Medians of 7 in one
# run, GB/s per CPU second on loopback: 128 KiB without more room 3.3, 512 KiB with room for 2 MiB 3.5, for
# 4 MiB 4.1, 1 MiB with room for 4 MiB 3.8. A fixed SO_RCVBUF of 4 MiB gives 4.3, but switches autotuning off
# for good, needs `rmem_max`, and far servers are slower with it.
LOW_WATER_BYTES = 512 << 10
ROOM_BYTES = 4 << 20


class Channel(Protocol):
    burst_bytes: int  # per callback, so that the loop stays responsive: 0.15-0.25 ms

    def fileno(self) -> int: ...

    def receive_into(self, view: memoryview) -> int | None:
        """Up to a burst. Less than the view holds means that the rest will make the socket readable."""

    def send(self, view: memoryview) -> int | None: ...

    def flush(self) -> bool:
        """True once everything that `send` took is with the kernel."""

    def unsent(self) -> int:
        """Bytes that the kernel still holds for the peer, where it tells."""

    def expect(self, nbytes: int) -> None:
        """At least so many more bytes will come: no need to be woken for less than a good part of them."""

    def is_quiet(self) -> bool:
        """Open, and nothing has arrived since the last answer: fit for another request."""

    def close(self) -> None: ...


class PlainChannel:
    burst_bytes = 1 << 20

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._low_water = 1
        self._has_room = False
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        return self.sock.fileno()

    def receive_into(self, view: memoryview) -> int | None:
        try:
            return self.sock.recv_into(view, min(len(view), self.burst_bytes))
        except (BlockingIOError, InterruptedError):
            return None

    def send(self, view: memoryview) -> int | None:
        try:
            return self.sock.send(view)
        except (BlockingIOError, InterruptedError):
            return None

    def flush(self) -> bool:
        return True

    def unsent(self) -> int:
        if fcntl is None:
            return 0
        try:
            queued = fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except OSError:
            return 0
        return int.from_bytes(queued, sys.byteorder)

    def expect(self, nbytes: int) -> None:
        if sys.platform != "linux":
            return
        if nbytes > LOW_WATER_BYTES and not self._has_room:
            # Linux makes room for a low-water mark, and leaves it when the mark goes down again
            self._has_room = True
            self._set_low_water(ROOM_BYTES)
        self._set_low_water(max(1, min(nbytes, LOW_WATER_BYTES)))

    def _set_low_water(self, nbytes: int) -> None:
        if nbytes != self._low_water:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, nbytes)
            self._low_water = nbytes

    def is_quiet(self) -> bool:
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        self.sock.close()


class TlsChannel:
    """`scratch` holds ciphertext for the length of a call, so one per thread is enough."""

    burst_bytes = TLS_CHUNK_BYTES

    def __init__(
        self, plain: PlainChannel, context: ssl.SSLContext, host: str, scratch: bytearray
    ) -> None:
        self._plain = plain
        self._scratch = memoryview(scratch)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._sealed = memoryview(b"")  # ciphertext on its way to the kernel

    def fileno(self) -> int:
        return self._plain.fileno()

    def handshake(self) -> bool:
        """What is possible now; True when done. Wait for the socket to be readable in between."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_sealed()
                received = self._receive_sealed()
                if received is None:
                    return False
                if received == 0:
                    raise ConnectionResetError("closed during the TLS handshake") from None
            else:
                return True
            finally:
                self._send_sealed()  # also the alert that tells the peer why not

    def receive_into(self, view: memoryview) -> int | None:
        count = self._unseal(view)
        if count is not None:
            return count
        received = self._receive_sealed()
        if received is None:
            return None
        if received == 0:
            return 0
        return self._unseal(view)

    def send(self, view: memoryview) -> int | None:
        if not self._send_sealed():
            return None
        try:
            count = self._tls.write(view[:TLS_CHUNK_BYTES])
        except ssl.SSLWantReadError:
            return None
        self._send_sealed()
        return count

    def flush(self) -> bool:
        return self._send_sealed()

    def unsent(self) -> int:
        return len(self._sealed) + self._plain.unsent()

    def expect(self, nbytes: int) -> None:
        # what OpenSSL has already taken out of the socket will not wake us
        self._plain.expect(nbytes - self._incoming.pending - TLS_RECORD_BYTES)

    def is_quiet(self) -> bool:
        if self._plain.is_quiet():
            return self._incoming.pending == 0 and self._tls.pending() == 0
        try:  # session tickets come after the handshake, and mean nothing to us
            return self.receive_into(memoryview(bytearray(1))) is None
        except OSError:
            return False

    def close(self) -> None:
        self._plain.close()

    def _receive_sealed(self) -> int | None:
        count = self._plain.receive_into(self._scratch)
        if count:
            self._incoming.write(self._scratch[:count])
        return count

    def _unseal(self, view: memoryview) -> int | None:
        filled = 0
        size = len(view)
        try:
            while filled < size:
                count: int = self._tls.read(size - filled, view[filled:])  # type: ignore[assignment]
                if not count:
                    break
                filled += count
        except ssl.SSLWantReadError:
            if self._outgoing.pending:  # answers to key updates
                self._send_sealed()
            if not filled:
                return None
        except ssl.SSLZeroReturnError:
            pass
        return filled

    def _send_sealed(self) -> bool:
        while True:
            if not self._sealed:
                if not self._outgoing.pending:
                    return True
                self._sealed = memoryview(self._outgoing.read())
            count = self._plain.send(self._sealed)
            if count is None:
                return False
            self._sealed = self._sealed[count:]
