"""The OpenAPI document: what FastAPI cannot know of routes that read their requests themselves."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, TypeAdapter

from gateway.intake import idempotency
from gateway.problems import MEDIA_TYPE
from gateway.scopes import scope_of
from gateway.tasks.schemas import Accepted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fastapi import APIRouter, FastAPI

SCHEMAS = "#/components/schemas/"
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: `offload_…`."},
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same API key in its own header.",
    },
}
SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}]
_DESCRIPTIONS = {
    400: "The request is malformed.",
    401: "There is no API key, or it is not known or has expired.",
    403: "The API key lacks the scope.",
    404: "The resource does not exist, or belongs to another API key.",
    408: "The body arrived too slowly.",
    409: "The current state does not allow the operation.",
    410: "The file has been deleted, or its link has expired.",
    412: "The resource has changed, or exists already.",
    413: "The body is too large.",
    415: "The media type, image format or content encoding is not supported.",
    416: "The range is outside the file.",
    422: "A field is invalid, or the Idempotency-Key was used for another request.",
    429: "The API key exceeds its rate, or the queue is full. Retry after `Retry-After` seconds.",
    503: "Offload is temporarily unavailable. Retry after `Retry-After` seconds.",
}
_RETRIED = {429, 503}
# What any request may be answered, whatever its route.
_ALWAYS = (400, 503)
_RATE_LIMIT = {
    name: {"schema": {"type": "string"}, "description": f"{text} With `rate.limited` alone."}
    for name, text in (
        ("RateLimit-Policy", "How many tasks an API key may post, in how many seconds."),
        ("RateLimit", "How many are left, and the seconds until there are more."),
    )
}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds."}}

# The schemas of bodies that are components of the document.
_components: dict[str, Any] = {}

# What a post to a path makes: the member of its answer that names it, and where it is.
_MADE = {
    **dict.fromkeys(
        ("/v1/tasks", "/v1/images", "/v1/emails", "/v1/reports", "/v1/calls"), ("task_id", "/v1/tasks/{task_id}")
    ),
    "/v1/batches": ("id", "/v1/batches/{batch_id}"),
    "/v1/webhooks": ("id", "/v1/webhooks/{webhook_id}"),
    "/v1/bulk": ("id", "/v1/bulk/{bulk_id}"),
    "/v1/tenants": ("name", "/v1/tenants/{name}"),
    "/v1/keys": ("id", "/v1/keys/{key_id}"),
}

# The bytes of a file.
FILE = {"type": "string", "format": "binary", "minLength": 1}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": idempotency.MAX_LENGTH,
        "pattern": "^[\\x20-\\x7e]+$",
    },
    "description": "Repeating a request with the same key returns the same task, for at least a day. A different "
    "request gets 422. The header `Idempotency-TTL` (60 to 604800) says how many seconds the key lives, from "
    "when the task may start.",
}
LOCATION = {"Location": {"schema": {"type": "string"}, "description": "Where it is."}}
CREATED_HEADERS = LOCATION | {
    "Idempotent-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "It was there already, by a request with this Idempotency-Key.",
    },
}


class FieldError(BaseModel):
    """What is wrong about one field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    code: str = Field(description="Stable; `docs/reference/problems.md` explains each.")
    detail: str
    errors: list[FieldError] | None = Field(default=None, description="The wrong fields, 20 at most.")
    limit_bytes: int | None = None


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the responses of these errors, for a route."""
    return {status: _problem(status) for status in (*statuses, *_ALWAYS)}


def _problem(status: int) -> dict[str, Any]:
    found = {
        "description": _DESCRIPTIONS[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": f"{SCHEMAS}{Problem.__name__}"}}},
    }
    headers = _RETRY_AFTER | (_RATE_LIMIT if status == HTTPStatus.TOO_MANY_REQUESTS else {})
    return found | ({"headers": headers} if status in _RETRIED else {})


# What a post of a task may be answered, beside the model of its 202.
_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"headers": CREATED_HEADERS},
    **problems(401, 408, 413, 415, 422, 429),
}


def accepts_task[F: Callable[..., Any]](router: APIRouter, request: Mapping[str, Any]) -> Callable[[F], F]:
    """Decorate the function that accepts one kind of task, posted to the router's own path.

    `request` is the OpenAPI of what is posted; what every post may be asked and answered is added.
    """
    document = {**request, "parameters": [*request.get("parameters", ()), IDEMPOTENCY_KEY]}
    return router.post(
        "", status_code=HTTPStatus.ACCEPTED, response_model=Accepted, responses=_ACCEPTED, openapi_extra=document
    )


def json_request(model: type[BaseModel] | TypeAdapter[Any]) -> dict[str, Any]:
    """Return the OpenAPI of a JSON body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inline_schema(model)}}}}


def json_request_by_reference(model: TypeAdapter[Any]) -> dict[str, Any]:
    """Return the OpenAPI of a JSON body whose models are components of the document, each under its own name."""
    schema = model.json_schema(ref_template=f"{SCHEMAS}{{model}}")
    _components.update(schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def query(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the OpenAPI of a model's fields as query parameters: no value of a query is null."""
    parameters = []
    for name, shape in inline_schema(model)["properties"].items():
        schema = dict(shape)
        description = schema.pop("description", "")
        choices = [one for one in schema.pop("anyOf", []) if one.get("type") != "null"]
        if choices:
            schema = choices[0] | {key: value for key, value in schema.items() if key != "default"}
        if schema.get("type") == "array":
            # One that is there has an item: an empty list is not sent at all.
            schema = {key: value for key, value in schema.items() if key != "default"} | {"minItems": 1}
        parameter: dict[str, Any] = {"name": name, "in": "query", "required": False, "description": description}
        # An object travels as JSON.
        is_object = schema.get("type") == "object"
        parameters.append(
            parameter | ({"content": {"application/json": {"schema": schema}}} if is_object else {"schema": schema})
        )
    return parameters


def schema_of(parameter: Mapping[str, Any]) -> Any:  # noqa: ANN401 -- any JSON schema
    """Return the schema of a parameter."""
    return parameter["schema"] if "schema" in parameter else parameter["content"]["application/json"]["schema"]


def inline_schema(model: type[BaseModel] | TypeAdapter[Any]) -> dict[str, Any]:
    """Return a model's JSON schema with all that it refers to in its place: no reference leads out of it."""
    schema = model.json_schema() if isinstance(model, TypeAdapter) else model.model_json_schema()
    shared = schema.pop("$defs", {})

    def full(part: Any) -> Any:  # noqa: ANN401 -- any JSON
        if isinstance(part, list):
            return [full(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            name = part["$ref"].rpartition("/")[2]
            # Any JSON may hold itself: it is said once, as anything.
            named = {} if name == "JsonValue" else shared[name]
            part = named | {key: value for key, value in part.items() if key != "$ref"}
        return {key: full(value) for key, value in part.items()}

    found: dict[str, Any] = full(schema)
    return found


def describe(app: FastAPI) -> None:
    """Complete the document: the security schemes, which routes need none, and the schema of problems."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = make()
        components = document.setdefault("components", {})
        components["securitySchemes"] = _SECURITY_SCHEMES
        schemas = components.setdefault("schemas", {})
        schemas[Problem.__name__] = inline_schema(Problem)
        schemas.update(_components)
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    # FastAPI adds it wherever there is a parameter, also one that any text is right for.
                    del operation["responses"]["422"]
                if path.startswith("/v1/"):
                    # The names of scopes, as OpenAPI 3.1 allows for any kind of security.
                    scope = scope_of(method.upper(), path, operation["tags"][0])
                    given = operation.get("security", SECURITY)
                    operation["security"] = [{name: [scope] for name in one} for one in given]
                    operation["responses"].setdefault("403", _problem(403))
                else:
                    operation.setdefault("security", [])
        _link(document["paths"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _link(paths: dict[str, Any]) -> None:
    """Say of each post that makes something which operations are about that: links, as OpenAPI has them."""
    for path, (member, place) in _MADE.items():
        parameter = place[place.index("{") + 1 : place.index("}")]
        links = {
            operation["operationId"]: {
                "operationId": operation["operationId"],
                "parameters": {parameter: f"$response.body#/{member}"},
            }
            for other, operations in paths.items()
            # Nothing that needs another name as well.
            if (other == place or other.startswith(f"{place}/")) and other.count("{") == 1
            for operation in operations.values()
        }
        responses = paths[path]["post"]["responses"]
        responses["202" if "202" in responses else "201"]["links"] = links
