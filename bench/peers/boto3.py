"""boto3: s3transfer's manager, with 32 requests at once (its default is 10) and parts of 8 MiB."""

from __future__ import annotations

from .s3_peer import Clocked

SCRIPT = """
import json, os, sys, time
from pathlib import Path
import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config

AT_ONCE = 32
verb, bucket, prefix, tree, answer = sys.argv[1:]
client = boto3.client("s3", config=Config(
    max_pool_connections=AT_ONCE, s3={"addressing_style": "path"},
    request_checksum_calculation="when_required", response_checksum_validation="when_required",
))
config = TransferConfig(
    max_concurrency=AT_ONCE, multipart_threshold=16 << 20, multipart_chunksize=8 << 20,
)

def put(manager):
    for folder, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(folder, name)
            yield manager.upload(path, bucket, f"{prefix}/{os.path.relpath(path, tree)}")

def get(manager):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/")
    known = set()
    for page in pages:
        for item in page.get("Contents", ()):
            path = os.path.join(tree, item["Key"][len(prefix) + 1:])
            folder = os.path.dirname(path)
            if folder not in known:
                os.makedirs(folder, exist_ok=True)
                known.add(folder)
            yield manager.download(bucket, item["Key"], path)

wall, cpu = time.perf_counter(), time.process_time()
with create_transfer_manager(client, config) as manager:
    for future in list({"put": put, "get": get}[verb](manager)):
        future.result()
clocks = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
Path(answer).write_text(json.dumps(clocks))
"""


class Boto3(Clocked):
    name = "boto3"
    is_slow = True
    requirement = "boto3==1.44.5"
    script = SCRIPT
