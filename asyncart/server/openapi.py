"""The OpenAPI document of the server: made from `wire.ROUTES`, never written by hand.

Served without authentication: it says what can be asked, not what is there. Bodies are the requests without
what the path names; a write answers what its answer struct says; every failure is a `Failure`.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec
from aiohttp import web

from ..wire import PREFIX, ROUTES, Answer, BatchAnswer, Failure, Outcome, Route
from . import checking
from .decoding import Codec
from .policy import POLICIES, Policy

PATH = f"{PREFIX}/openapi.json"
VERSION = "1"
TITLE = "asyncart server"
_SCHEMAS = "#/components/schemas/{name}"

# Statuses that any call may have, beside its own answer.
FAILURES = {
    "400": "It is not HTTP as it should be.",
    "401": "No API key, or not a valid one.",
    "403": "The key or its user may read it, but not do that.",
    "404": "It does not exist, or may not be seen.",
    "405": "There is no such method here.",
    "408": "The body did not come.",
    "409": "Somebody changed it meanwhile, or it exists with other content.",
    "411": "The length of the body is missing.",
    "413": "The body is too large.",
    "415": "The body is no JSON, or compressed.",
    "422": "The request itself is wrong.",
    "429": "Too many requests.",
    "500": "A mistake of the server, or stored bytes are damaged.",
    "502": "The store failed.",
    "503": "The catalog or the store does not work now: repeat later.",
}


# An answer that was encoded already has no schema: here is one of the same form.
_Outcome = msgspec.defstruct("Outcome", [("answer", Any, None), ("failure", Failure | None, None)])
_BatchAnswer = msgspec.defstruct("BatchAnswer", [("outcomes", list[_Outcome])])  # type: ignore[valid-type]
for _struct, _like in ((_Outcome, Outcome), (_BatchAnswer, BatchAnswer)):
    _struct.__doc__ = _like.__doc__


def _described(answer: type[Answer]) -> type:
    return _BatchAnswer if answer is BatchAnswer else answer


def add_to(app: web.Application) -> None:
    async def openapi(http: web.Request) -> web.Response:
        return web.Response(body=encoded(), content_type="application/json")

    app.router.add_get(PATH, openapi, name="openapi")


@functools.cache
def encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    codecs = {name: Codec.of(route) for name, route in ROUTES.items()}
    structs: list[type] = [Failure]
    for codec in codecs.values():
        structs += [codec.route.request, _described(codec.route.answer)]
        if codec.has_body:
            structs.append(codec.body)
    references, schemas = msgspec.json.schema_components(structs, ref_template=_SCHEMAS)
    by_struct = dict(zip(structs, references, strict=True))
    requests = {codec.route.request.__name__ for codec in codecs.values()}
    for schema in schemas.values():
        _add_forms(schema)
    paths: dict[str, dict[str, Any]] = {}
    for codec in codecs.values():
        operation = _operation(codec, by_struct, schemas)
        paths.setdefault(codec.path, {})[codec.route.method.lower()] = operation
    paths[PATH] = {"get": _own_operation()}
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION, "description": _about()},
        "paths": paths,
        "components": {
            # Requests are told by their parameters and bodies.
            "schemas": {
                name: _tidy(schema) for name, schema in schemas.items() if name not in requests
            },
            "responses": {
                f"Failure{status}": _failure(text, by_struct) for status, text in FAILURES.items()
            },
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key: aart_<id>_<secret>_<checksum>.",
                }
            },
        },
        "security": [{"key": []}],
    }


def _operation(
    codec: Codec, by_struct: dict[type, dict[str, Any]], schemas: dict[str, Any]
) -> dict[str, Any]:
    route = codec.route
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.name.replace("_", " "),
        "description": _description(route),
        "parameters": _parameters(codec, schemas),
        "responses": {
            "200": {
                "description": _first_line(route.answer),
                "content": {"application/json": {"schema": by_struct[_described(route.answer)]}},
            },
            **{status: {"$ref": f"#/components/responses/Failure{status}"} for status in FAILURES},
        },
    }
    if codec.has_body:
        required = any(field.required for field in msgspec.structs.fields(codec.body))
        operation["requestBody"] = {
            "required": required,
            "content": {"application/json": {"schema": by_struct[codec.body]}},
        }
    if route.method != "GET" and (POLICIES[route.name].keeps_answer or route.name == "batch"):
        operation["parameters"].append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "The same key again gives the first answer again.",
                "schema": {"type": "string", "maxLength": 128, "pattern": "^[A-Za-z0-9_.-]+$"},
            }
        )
    return operation


def _parameters(codec: Codec, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    properties = schemas[codec.route.request.__name__].get("properties", {})
    fields = {field.name: field for field in msgspec.structs.fields(codec.route.request)}
    found = [
        {"name": name, "in": "path", "required": True, "schema": properties[name]}
        for name in codec.in_path
    ]
    if codec.has_body:
        return found
    found += [
        {
            "name": name,
            "in": "query",
            "required": field.required,
            "schema": _in_query(properties[name]),
        }
        for name, field in fields.items()
        if name not in codec.in_path
    ]
    return found


def _in_query(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or not: there is no null in a query."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        return dict(kinds[0])
    return {key: value for key, value in schema.items() if value is not None}


def _description(route: Route) -> str:
    said = [_docstring(route.request)] if _docstring(route.request) else []
    policy = POLICIES.get(route.name)
    if policy is not None:
        said.append(_needs(policy))
    return "\n\n".join(said)


def _needs(policy: Policy) -> str:
    needs = []
    if policy.scope is not None:
        needs.append(f"the scope '{policy.scope.value}'")
    if policy.role is not None:
        needs.append(f"the role '{policy.role.value}' there ({policy.target.name.lower()})")
    elif policy.target.name == "SERVER":
        needs.append("an administrator of the server")
    return f"Needs {' and '.join(needs)}." if needs else "Needs a valid key."


def _own_operation() -> dict[str, Any]:
    return {
        "operationId": "openapi",
        "summary": "this document",
        "security": [],
        "responses": {
            "200": {
                "description": "This document.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        },
    }


def _failure(text: str, by_struct: dict[type, dict[str, Any]]) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/json": {"schema": by_struct[Failure]}},
    }


def _add_forms(schema: dict[str, Any]) -> None:
    for name, field in schema.get("properties", {}).items():
        if (form := checking.FORMS.get(name)) is None:
            continue
        for kind in (field, *field.get("anyOf", ())):
            if kind.get("type") in ("string", "integer"):
                kind.update(form)


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Docstrings without their line breaks."""
    if "description" in schema:
        schema = {**schema, "description": _joined(schema["description"])}
    return schema


def _docstring(struct: type) -> str:
    inherited = {Answer.__doc__}
    text = struct.__doc__ or ""
    return "" if text in inherited else _joined(text)


def _first_line(struct: type) -> str:
    return _docstring(struct).partition("\n")[0] or struct.__name__


def _joined(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _about() -> str:
    from .. import wire

    return _joined(wire.__doc__ or "")
