"""`python -m bench.verbs`: the two hot verbs alone, against nginx on 127.0.0.1, beside their peers.

8 MiB ranges down and 8 MiB bodies up, eight at a time, over plain HTTP and TLS. Every client runs in a
process of its own, in turn, several rounds; the table shows the best round's bytes per second and per CPU
second of the client (the server is not counted; what else runs on the machine only ever takes away),
and the ratio to obstore in the same run. Nobody
verifies or writes anything: it is the ceiling of the data plane, not a transfer.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import mmap
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from .processes import free_ports, listens, running

MIB = 1 << 20
RANGE_BYTES = 8 * MIB
STREAMS = 8
CLIENTS = ("asyncart", "asyncart-asyncio", "aiohttp", "obstore")
VERBS = ("get", "put")
SCHEMES = ("http", "https")
TARGETS = {
    ("http", "get"): 2.3,
    ("http", "put"): 1.5,
    ("https", "get"): 1.25,
    ("https", "put"): 0.95,
}

NGINX = """
daemon off; worker_processes 2; pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000;
  client_max_body_size 0; client_body_buffer_size 16k; client_body_temp_path {root}/incoming;
  server {{
    listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {root}/cert.pem; ssl_certificate_key {root}/key.pem;
    root {root}/files; location / {{ dav_methods PUT; }}
  }}
}}
"""

OPEN: list[object] = []  # the process ends without closing anything

Verb = Callable[[int, memoryview], Awaitable[object]]


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m bench.verbs", description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--requests", type=int, default=160, help="per measurement")
    arguments.add_argument("--json", type=Path, help="write the numbers there")
    arguments.add_argument("--client", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.client:
        client(json.loads(options.client))
        return
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None, prefix="verbs-") as name:
        root = Path(name)
        with running_nginx(root) as (ports, authority):
            results = measure(root, ports, authority, options.rounds, options.requests)
    show(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


@contextmanager
def running_nginx(root: Path) -> Iterator[tuple[dict[str, int], Path]]:
    """The port of each scheme, and the certificate of who signed the server's."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("nginx is not installed: apt-get install nginx-light")
    for folder in ("files", "incoming"):
        (root / folder).mkdir()
    root.chmod(0o755)
    for folder in ("files", "incoming"):
        (root / folder).chmod(0o777)  # the workers run as another user
    (root / "files" / "big").write_bytes(os.urandom(RANGE_BYTES) * STREAMS)
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(root / "ca.pem")
    certificate.private_key_pem.write_to_path(root / "key.pem")
    (root / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    ports = dict(zip(SCHEMES, free_ports(len(SCHEMES)), strict=True))
    config = root / "nginx.conf"
    config.write_text(NGINX.format(root=root, **ports))
    command = [program, "-e", f"{root}/error.log", "-c", str(config)]
    with running(command, root, lambda: listens(ports["https"]), ends_with=signal.SIGTERM):
        yield ports, root / "ca.pem"


def measure(
    root: Path, ports: dict[str, int], authority: Path, rounds: int, requests: int
) -> list[dict[str, object]]:
    """Every client in turn, round after round, so that a disturbance hits all of them."""
    samples: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for scheme in SCHEMES:
            for verb in VERBS:
                for name in CLIENTS:
                    task = {
                        "name": name,
                        "verb": verb,
                        "base": f"{scheme}://127.0.0.1:{ports[scheme]}",
                        "authority": str(authority),
                        "requests": requests,
                    }
                    done = subprocess.run(
                        [sys.executable, "-m", "bench.verbs", "--client", json.dumps(task)],
                        stdout=subprocess.PIPE,
                        check=True,
                        timeout=600,
                    )
                    wall, cpu = json.loads(done.stdout)
                    samples.setdefault((scheme, verb, name), []).append((wall, cpu))
    nbytes = requests // STREAMS * STREAMS * RANGE_BYTES
    return [
        {
            "scheme": scheme,
            "verb": verb,
            "client": name,
            "gb_per_s": nbytes / 1e9 / min(wall for wall, _ in each),
            "gb_per_cpu_s": nbytes / 1e9 / min(cpu for _, cpu in each),
            "samples": each,
        }
        for (scheme, verb, name), each in samples.items()
    ]


def show(results: list[dict[str, object]]) -> None:
    print(f"{'':12}{'client':20}{'GB/s':>8}{'per CPU s':>12}{'x obstore':>12}{'target':>9}")
    for scheme in SCHEMES:
        for verb in VERBS:
            rows = [r for r in results if (r["scheme"], r["verb"]) == (scheme, verb)]
            peer = next(float(str(r["gb_per_cpu_s"])) for r in rows if r["client"] == "obstore")
            for row in rows:
                rate = float(str(row["gb_per_cpu_s"]))
                target = TARGETS[scheme, verb] if row["client"] == "asyncart" else ""
                print(
                    f"{scheme:6}{verb:6}{row['client']:20}{row['gb_per_s']:8.2f}{rate:12.2f}"
                    f"{rate / peer:12.2f}{target:>9}"
                )


# one client, in a process of its own


def client(task: dict[str, str]) -> None:
    name = task["name"]
    if name == "asyncart":
        import uvloop

        measured = uvloop.run(run(task))
    else:
        measured = asyncio.run(run(task))
    sys.stdout.write(json.dumps(measured))
    sys.stdout.flush()
    os._exit(0)  # obstore 0.12 aborts at interpreter exit in some runs


async def run(task: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of so many requests, after a round that opens the connections."""
    verb = await opened(task)
    buffers = [random_buffer() for _ in range(STREAMS)]
    each = int(task["requests"]) // STREAMS

    async def stream(index: int, count: int) -> None:
        for _ in range(count):
            await verb(index, buffers[index])

    async def all_streams(count: int) -> None:
        async with asyncio.TaskGroup() as group:
            for index in range(STREAMS):
                group.create_task(stream(index, count))

    await all_streams(2)
    wall, cpu = time.perf_counter(), time.process_time()
    await all_streams(each)
    return time.perf_counter() - wall, time.process_time() - cpu


def random_buffer() -> memoryview:
    memory = mmap.mmap(-1, RANGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = os.urandom(MIB) * (RANGE_BYTES // MIB)
    return memoryview(memory)


async def opened(task: dict[str, str]) -> Verb:
    if task["name"] == "obstore":
        return opened_obstore(task)
    base = task["base"]
    context = ssl.create_default_context(cafile=task["authority"])
    if task["name"] == "aiohttp":
        return opened_aiohttp(base, task["verb"], context)
    from asyncart.net.stream_plane import StreamPlane

    plane = StreamPlane(ssl_context=context)
    if task["verb"] == "get":
        return lambda i, view: plane.get_range(f"{base}/big", {}, i * RANGE_BYTES, view)
    return lambda i, view: plane.put(f"{base}/up-{i}", {}, [view])


def opened_aiohttp(base: str, verb: str, context: ssl.SSLContext) -> Verb:
    """As people write it: `resp.read()`, and a body of bytes."""
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
    OPEN.append(session)

    async def get(index: int, view: memoryview) -> None:
        first = index * RANGE_BYTES
        wanted = {"Range": f"bytes={first}-{first + RANGE_BYTES - 1}"}
        async with session.get(f"{base}/big", headers=wanted) as response:
            assert len(await response.read()) == RANGE_BYTES

    async def put(index: int, view: memoryview) -> None:
        body = aiohttp.payload.BytesIOPayload(io.BytesIO(view))
        async with session.put(f"{base}/up-{index}", data=body) as response:
            assert response.status in (201, 204)

    return get if verb == "get" else put


def opened_obstore(task: dict[str, str]) -> Verb:
    import obstore
    from obstore.store import HTTPStore

    store = HTTPStore.from_url(
        task["base"], client_options={"allow_http": True, "allow_invalid_certificates": True}
    )

    async def get(index: int, view: memoryview) -> None:
        data = await obstore.get_range_async(
            store, "big", start=index * RANGE_BYTES, length=RANGE_BYTES
        )
        assert len(data) == RANGE_BYTES

    async def put(index: int, view: memoryview) -> None:
        await obstore.put_async(store, f"up-{index}", view, use_multipart=False)

    return get if task["verb"] == "get" else put


if __name__ == "__main__":
    main()
