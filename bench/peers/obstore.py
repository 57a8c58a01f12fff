"""obstore: object stores in Rust, driven from asyncio. It stores and fetches bytes, and verifies nothing.

Tuned as its users would: 64 small objects or 16 ranges of 8 MiB at once, multipart in Rust from the file's
path, no SHA-256 of the payload (as ours). The script ends with `os._exit`: obstore 0.12 aborts at
interpreter exit in some runs, after its work is done.
"""

from __future__ import annotations

from .s3_peer import Clocked

SCRIPT = """
import asyncio, json, os, sys, time
from pathlib import Path
import obstore
from obstore.store import S3Store

SMALL_AT_ONCE, RANGES_AT_ONCE, RANGE_BYTES, LARGE_BYTES = 64, 16, 8 << 20, 16 << 20
verb, bucket, prefix, tree, answer = sys.argv[1:]
store = S3Store(
    bucket, prefix=prefix, endpoint=os.environ["AWS_ENDPOINT_URL_S3"],
    access_key_id=os.environ["AWS_ACCESS_KEY_ID"], secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    region=os.environ["AWS_REGION"], unsigned_payload=True, client_options={"allow_http": True},
)

async def each(function, items, at_once):
    items = iter(items)
    async def work():
        for item in items:
            await function(item)
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())

async def put():
    large, small = [], []
    for folder, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(folder, name)
            (large if os.path.getsize(path) >= LARGE_BYTES else small).append(path)
    async def put_small(path):
        with open(path, "rb") as file:
            body = file.read()
        await obstore.put_async(store, os.path.relpath(path, tree), body, use_multipart=False)
    async def put_large(path):
        await obstore.put_async(
            store, os.path.relpath(path, tree), Path(path),
            chunk_size=RANGE_BYTES, max_concurrency=RANGES_AT_ONCE,
        )
    await each(put_small, small, SMALL_AT_ONCE)
    await each(put_large, large, 4)

async def get():
    large, small = [], []
    for page in obstore.list(store, chunk_size=1000):
        for item in page:
            (large if item["size"] >= LARGE_BYTES else small).append((item["path"], item["size"]))
    for folder in {os.path.dirname(os.path.join(tree, path)) for path, _ in small + large}:
        os.makedirs(folder, exist_ok=True)
    async def get_small(item):
        answer = await obstore.get_async(store, item[0])
        body = await answer.bytes_async()
        with open(os.path.join(tree, item[0]), "wb") as file:
            file.write(body)
    opened, ranges = {}, []
    for path, size in large:
        opened[path] = os.open(os.path.join(tree, path), os.O_CREAT | os.O_WRONLY)
        ranges += [(path, at, min(RANGE_BYTES, size - at)) for at in range(0, size, RANGE_BYTES)]
    async def get_large(item):
        path, start, length = item
        body = await obstore.get_range_async(store, path, start=start, length=length)
        await asyncio.to_thread(os.pwrite, opened[path], body, start)
    await each(get_small, small, SMALL_AT_ONCE)
    await each(get_large, ranges, RANGES_AT_ONCE)
    for fd in opened.values():
        os.close(fd)

wall, cpu = time.perf_counter(), time.process_time()
asyncio.run({"put": put, "get": get}[verb]())
clocks = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
Path(answer).write_text(json.dumps(clocks))
os._exit(0)
"""


class Obstore(Clocked):
    name = "obstore"
    requirement = "obstore==0.12.1"
    script = SCRIPT
