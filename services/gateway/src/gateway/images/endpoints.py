"""Posting an image: check what can be seen, store the upload, accept a chain of one to three steps, answer 202."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

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
                    "properties": {"file": openapi.FILE} | {one["name"]: one["schema"] for one in _OPTIONS},
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
    upload = Upload(request, deps.settings.upload_limit_bytes)
    query, headers = _in_query(request), _in_headers(request)
    # What can be seen to be wrong already is refused before the body is read.
    _validated(query)
    _validated(headers)

    def options() -> ImageRequest:
        # A field of the form counts more than the query, and the header more than both.
        return _validated(query | upload.fields).model_copy(update=headers)

    async with deps.upload_memory.share(deps.blobs.write_memory_bytes(upload.expected_bytes) + CONNECTION_BYTES):
        return await service.accept(deps, caller, key, request.url.path, upload, options)


def _in_query(request: Request) -> dict[str, str]:
    """Return the options in the query.

    Raises:
        Problem: 422 ``request.invalid`` where one is given more than once.

    """
    counts = Counter(name for name, _ in request.query_params.multi_items())
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise problems.invalid_fields(dict.fromkeys(twice[: problems.MAX_ERRORS], "is given more than once"))
    return dict(request.query_params)


def _in_headers(request: Request) -> dict[str, str]:
    """Return the option that has a header.

    Raises:
        Problem: 422 ``request.invalid`` where it is given more than once.

    """
    given = request.headers.getlist(NOTIFY_HEADER)
    if len(given) > 1:
        raise problems.invalid_fields({NOTIFY_HEADER: "is given more than once"})
    return {"notify": given[0]} if given else {}


def _validated(fields: Mapping[str, str]) -> ImageRequest:
    try:
        return ImageRequest.model_validate(fields)
    except ValidationError as error:
        raise problems.invalid(error) from None
