"""Artifacts, runs and files as JSON: exact sizes in bytes, times in ISO 8601 (UTC), digests in hex."""

from __future__ import annotations

from typing import Any

from ..aio import Artifact, ArtifactEntry
from ..model import CollectionInfo, RunInfo
from .words import utc


def version(artifact: Artifact) -> dict[str, Any]:
    return {
        "name": artifact.name,
        "qualified_name": artifact.qualified_name,
        "collection": artifact.collection,
        "version": artifact.version,
        "type": artifact.type,
        "aliases": list(artifact.aliases),
        "tags": list(artifact.tags),
        "files": artifact.file_count,
        "bytes": artifact.size,
        "digest": artifact.digest,
        "created_at": utc(artifact.created_at),
        "updated_at": utc(artifact.updated_at),
        "ttl_s": None if artifact.ttl is None else artifact.ttl.total_seconds(),
        "expires_at": utc(artifact.expires_at),
        "description": artifact.description,
        "metadata": artifact.metadata,
    }


def collection(info: CollectionInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "entity": info.entity,
        "project": info.project,
        "type": info.type,
        "versions": info.versions,
        "latest": None if info.latest is None else f"v{info.latest}",
        "bytes": info.size,
        "created_at": utc(info.created_at),
        "updated_at": utc(info.updated_at),
    }


def entry(file: ArtifactEntry) -> dict[str, Any]:
    found: dict[str, Any] = {"path": file.path, "bytes": file.size, "digest": file.digest}
    if file.is_executable:
        found["executable"] = True
    if file.ref is not None:
        found["reference"] = file.ref
    return found


def run(info: RunInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "name": info.name,
        "entity": info.entity,
        "project": info.project,
        "job_type": info.job_type,
        "state": str(info.state),
        "created_at": utc(info.created_at),
        "finished_at": utc(info.finished_at),
    }
