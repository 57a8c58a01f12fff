"""The document that describes the API is true: it names every route, and every answer is as it says."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from jsonschema import Draft202012Validator
from talk import ENTITY, PROJECT, Talk, digest, in_folder, served

from asyncart import wire
from asyncart.server import openapi
from asyncart.server.app import make_app
from asyncart.server.policy import POLICIES

EXAMPLES = 3  # right and wrong ones of each operation; making them up takes most of the time
OPERATIONS = {"healthz", "readyz", "metrics"}  # for machines, not of the API
BYTES = {"get_bytes", "put_bytes"}  # their URLs are opaque to clients


def validator(name: str, status: int) -> Draft202012Validator:
    document = json.loads(openapi.encoded())
    answer = wire.ROUTES[name].answer if status == 200 else wire.Failure
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{answer.__name__}", "components": document["components"]}
    )


async def test_every_route_is_in_the_document_and_no_other(tmp_path: Path) -> None:
    document = json.loads(openapi.encoded())
    described = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    async with served(*in_folder(tmp_path)) as talk:
        registered = {
            (route.method, resource.canonical)
            for resource in make_app(talk.context).router.resources()
            for route in resource
            if route.name not in BYTES and route.method != "HEAD"
        }
    assert described == registered


def test_what_a_route_needs_is_described() -> None:
    """Each operation says the scope and the role of its policy."""
    document = json.loads(openapi.encoded())
    described = {
        operation["operationId"]: operation["description"]
        for operations in document["paths"].values()
        for operation in operations.values()
        if operation["operationId"] != "openapi"
    }
    assert described.keys() == wire.ROUTES.keys()
    for name, policy in POLICIES.items():
        for word in (policy.scope, policy.role):
            assert word is None or f"'{word.value}'" in described[name]


def test_the_document_is_valid() -> None:
    """By the rules of OpenAPI 3.1."""
    from openapi_spec_validator import validate

    validate(json.loads(openapi.encoded()))


async def test_it_is_served_to_everybody(tmp_path: Path) -> None:
    async with served(*in_folder(tmp_path)) as talk:
        assert (await talk.raw("GET", openapi.PATH)).ok()["openapi"] == "3.1.0"


async def test_answers_are_as_described(tmp_path: Path) -> None:
    """A walk through the API: what comes back is valid by the schema of its route and status."""
    async with served(*in_folder(tmp_path)) as talk:
        await walk(talk)
        statuses = {}
        for name, status, body in talk.seen:
            errors = list(validator(name, status).iter_errors(body))
            assert not errors, (name, status, errors[0].message)
            statuses.setdefault(name, set()).add(status)
    assert len(statuses) > 20
    assert statuses["resolve"] == {200, 404}


async def walk(talk: Talk) -> None:
    name = {"entity": ENTITY, "project": PROJECT, "collection": "data"}
    await talk.ask("about_me")
    session_id = await talk.session()
    version = (await talk.logged(session_id, b"1", metadata={"a": [1.5, None]}))["version"]
    object_id, _ = await talk.registered(session_id, want_url=True)
    await talk.ask("begin_object_upload", object_id=object_id)
    await talk.ask("resume_object_upload", object_id=object_id)
    await talk.ask("adopt_upload", session_id=session_id, resume_key="x")
    await talk.ask("stored_contents", session_id=session_id, digests=[digest(b"1"), digest(b"2")])
    await talk.ask("stored_chunks", session_id=session_id, digests=[digest(b"1")])
    await talk.ask("object_sizes", object_ids=[object_id])
    await talk.ask("sign_urls", wanted=[{"object_id": object_id, "method": "PUT"}])
    await talk.ask("resolve", **name, selector="latest", urls="true")
    await talk.ask("resolve", **name, selector="nope")
    await talk.ask("find_version", **name, digest=digest(b"nothing"))
    await talk.ask("list_versions", **name)
    await talk.ask("list_collections", entity=ENTITY)
    await talk.ask("update_version", version_id=version["id"], description="words")
    await talk.ask("set_alias", version_id=version["id"], alias="best", if_current=7)
    run = {
        "id": "r", "entity": ENTITY, "project": PROJECT, "name": "r", "job_type": None,
        "state": "running", "created_at": 0.0,
    }  # fmt: skip
    await talk.ask("create_run", run=run)
    await talk.ask("get_run", run_id="r")
    await talk.ask("record_use", run_id="r", version_id=version["id"])
    await talk.ask("run_inputs", run_id="r")
    await talk.ask("used_by", version_id=version["id"])
    calls = [
        {"name": "get_run", "request": {"run_id": "r"}},
        {"name": "get_run", "request": {"run_id": "nope"}},
    ]
    await talk.ask("batch", calls=calls)
    await talk.ask("prune_versions", **name, keep_last=1)
    await talk.ask("delete_version", version_id=version["id"], delete_aliases=True)
    await talk.ask("collect_garbage")
    await talk.ask("list_users")
    await talk.ask("list_teams")


@contextlib.contextmanager
def in_thread(folder: Path) -> Iterator[str]:
    """A server on an event loop of its own, for clients that block."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(served(*in_folder(folder))) as talk,
    ):
        yield talk.url


def test_no_request_that_the_document_allows_is_a_server_error(tmp_path: Path) -> None:
    """schemathesis makes requests, right and wrong, from the document; answers have to be as it says."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = (
        not_a_server_error,
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )
    schema = schemathesis.openapi.from_dict(json.loads(openapi.encoded()))
    modes = list(schemathesis.GenerationMode)
    tried = 0
    with in_thread(tmp_path) as url:
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in modes:

                @given(case=operation.as_strategy(generation_mode=mode))
                @settings(
                    max_examples=EXAMPLES,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                def attempt(case: Any) -> None:
                    nonlocal tried
                    tried += 1
                    answer = case.call(base_url=url)
                    case.validate_response(answer, checks=checks)

                # Of what has no parameters there is nothing wrong to say.
                with contextlib.suppress(Unsatisfiable):
                    attempt()
    assert tried > 100
