"""Bodies, read by ourselves: within our limits of size and time, before anything is parsed."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from gateway import problems
from gateway.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Request

    from gateway.app import Parts


def openapi_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI of such a body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema_of(model)}}}}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema with all that it refers to in its place: no reference leads out of it."""
    schema = model.model_json_schema()
    shared = schema.pop("$defs", {})

    def whole(part: Any) -> Any:  # noqa: ANN401 -- any JSON
        if isinstance(part, list):
            return [whole(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            named = shared[part["$ref"].rpartition("/")[2]]
            part = named | {key: value for key, value in part.items() if key != "$ref"}
        return {key: whole(value) for key, value in part.items()}

    found: dict[str, Any] = whole(schema)
    return found


async def received(request: Request) -> AsyncIterator[bytes]:
    """Yield a body's pieces as they come.

    Raises:
        Problem: 408 ``request.timeout`` when nothing comes for too long, or all of it takes too long; 400
            ``request.malformed`` when the client leaves.

    """
    parts: Parts = request.app.state.parts
    settings = parts.settings
    loop = asyncio.get_running_loop()
    end = loop.time() + settings.body_timeout_seconds
    pieces = request.stream()
    while True:
        try:
            async with asyncio.timeout_at(min(loop.time() + settings.body_idle_seconds, end)):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, "request.timeout", "the body came too slowly") from None
        except ClientDisconnect:
            raise Problem(HTTPStatus.BAD_REQUEST, "request.malformed", "the body ended too early") from None
        yield piece


async def json_body[M: BaseModel](request: Request, model: type[M]) -> M:
    """Return the JSON body, checked.

    Raises:
        Problem: 408 ``request.timeout``, 413 ``body.too_large``, 415 ``request.media_type``, 422 ``request.invalid``.

    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "request.media_type", "send application/json")
    parts: Parts = request.app.state.parts
    limit = parts.settings.body_limit_bytes
    body = bytearray()
    async for chunk in received(request):
        body += chunk
        if len(body) > limit:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body.too_large", f"a body may have {limit:,} bytes")
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        raise problems.invalid(error) from None
