"""Posting an image: check what can be seen, store the upload, accept a chain of one to three steps, answer 202."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from gateway import dependencies, openapi, problems
from gateway.images import service
from gateway.images.schemas import ImageRequest
from gateway.intake import idempotency
from gateway.intake.memory import CONNECTION_BYTES
from gateway.intake.uploads import Upload
from offload_contracts.images import ImageFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

router = APIRouter(prefix="/v1/images", tags=["tasks"])

NOTIFY_HEADER = "Offload-Notify"
# Options that may be given more than once, and those that are JSON.
LISTS = frozenset({"tags", "private"})
OBJECTS = frozenset({"metadata", "retry"})
_OPTIONS = openapi.query(ImageRequest)
_NOTIFY = {
    "name": NOTIFY_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "format": "email"},
    "description": "The option `notify` as a header, which access logs usually leave out. It overrides query and form.",
}
_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {
            # Its own image/… type does as well; generators of clients know this one.
            "application/octet-stream": {"schema": openapi.FILE},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": openapi.FILE} | {one["name"]: openapi.schema_of(one) for one in _OPTIONS},
                    "required": ["file"],
                    "additionalProperties": False,
                },
                "encoding": {"file": {"contentType": ", ".join(f"image/{one.value}" for one in ImageFormat)}},
            },
        },
    },
    "parameters": [*_OPTIONS, _NOTIFY],
}


@openapi.accepts_task(router, _REQUEST)
async def post_image(request: Request) -> Response:
    """Resize an image: the raw body, or the field `file` of a form. The options come as query or as fields."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    key = idempotency.key_of(request.headers)
    deps.admission.check(caller, key)
    upload = Upload(request, dependencies.payload_limit(request, deps.settings.upload_limit_bytes))
    query, headers = _in_query(request), _in_headers(request)
    # What can be seen to be wrong already is refused before the body is read.
    _validated(query)
    in_headers = _validated(headers)

    def options() -> ImageRequest:
        # A field of the form counts more than the query, and the header more than both.
        return _validated(query | upload.fields).model_copy(
            update={name: getattr(in_headers, name) for name in headers}
        )

    async with deps.upload_memory.share(deps.blobs.write_memory_bytes(upload.expected_bytes) + CONNECTION_BYTES):
        return await service.accept(deps, caller, key, request.url.path, upload, options)


def _in_query(request: Request) -> dict[str, list[str]]:
    """Return the options in the query."""
    found: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        found.setdefault(name, []).append(value)
    return found


def _in_headers(request: Request) -> dict[str, list[str]]:
    """Return the option that has a header."""
    given = request.headers.getlist(NOTIFY_HEADER)
    return {"notify": given} if given else {}


def _validated(given: Mapping[str, list[str]]) -> ImageRequest:
    """Return the options, of texts: a list has one for each of its items, and an object is JSON.

    Raises:
        Problem: 422 ``request.invalid``.

    """
    twice = [name for name, values in given.items() if len(values) > 1 and name not in LISTS]
    if twice:
        raise problems.invalid_fields(dict.fromkeys(twice[: problems.MAX_ERRORS], "is given more than once"))
    fields: dict[str, Any] = {name: values if name in LISTS else values[0] for name, values in given.items()}
    for name in OBJECTS & fields.keys():
        try:
            fields[name] = json.loads(fields[name])
        except (ValueError, RecursionError):
            raise problems.invalid_fields({name: "is not JSON"}) from None
    try:
        return ImageRequest.model_validate(fields)
    except ValidationError as error:
        raise problems.invalid(error) from None
