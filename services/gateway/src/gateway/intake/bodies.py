"""Bodies, read by ourselves: within our limits of size and time, before anything is parsed."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect

from gateway import dependencies, problems
from gateway.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Request


NDJSON = "application/x-ndjson"


async def received(request: Request) -> AsyncIterator[bytes]:
    """Yield a body's pieces as they come.

    Raises:
        Problem: 408 ``request.timeout`` when nothing comes for too long, or all of it takes too long; 400
            ``request.malformed`` when the client leaves.

    """
    settings = dependencies.of(request).settings
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
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, "request.timeout", "the body arrived too slowly") from None
        except ClientDisconnect:
            raise Problem(HTTPStatus.BAD_REQUEST, "request.malformed", "the body ended too early") from None
        yield piece


def refuse_encoding(request: Request) -> None:
    """Refuse a compressed body: it would have to be unpacked before its size is known.

    Raises:
        Problem: 415 ``request.content_encoding``.

    """
    if request.headers.get("content-encoding", "identity").strip().lower() not in {"identity", ""}:
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "request.content_encoding", "send the body without a Content-Encoding"
        )


async def json_body[M](request: Request, model: TypeAdapter[M]) -> M:
    """Return the JSON body, checked: the types are JSON's own, and no member is given twice.

    Raises:
        Problem: 408 ``request.timeout``, 413 ``body.too_large``, 415 ``request.media_type`` or
            ``request.content_encoding``, 422 ``request.invalid``.

    """
    _expect(request, "application/json")
    limit = dependencies.payload_limit(request, dependencies.of(request).settings.body_limit_bytes)
    body = bytearray()
    async for chunk in received(request):
        body += chunk
        if len(body) > limit:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body.too_large", f"a body may have {limit:,} bytes")
    strict_json(body)
    return checked(bytes(body), model)


async def lines(request: Request) -> AsyncIterator[bytes]:
    """Yield the lines of a body of newline-delimited JSON as they come, without those that are empty.

    Raises:
        Problem: 413 ``body.too_large`` for a line, and those of `json_body` that are for any body.

    """
    _expect(request, NDJSON)
    limit = dependencies.payload_limit(request, dependencies.of(request).settings.body_limit_bytes)
    rest = bytearray()
    async for piece in received(request):
        *full, last = piece.split(b"\n")
        for part in full:
            rest += part
            if line := bytes(rest).strip():
                yield line
            rest.clear()
        rest += last
        if len(rest) > limit:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body.too_large", f"a line may have {limit:,} bytes")
    if line := bytes(rest).strip():
        yield line


def _expect(request: Request, media_type: str) -> None:
    refuse_encoding(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != media_type:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "request.media_type", f"send {media_type}")


def strict_json(text: bytes | bytearray) -> Any:  # noqa: ANN401 -- any JSON
    """Return what a JSON text holds.

    Raises:
        Problem: 422 ``request.invalid`` where it is none, or parsers would disagree about it.

    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, _NotStrictError) else "is not JSON"
        raise problems.invalid_fields({"body": why}) from None


def checked[M](text: bytes | str, model: TypeAdapter[M]) -> M:
    """Return a JSON text as its model has it: the types are JSON's own.

    Raises:
        Problem: 422 ``request.invalid``.

    """
    try:
        return model.validate_json(text, strict=True)
    except ValidationError as error:
        # Of a union pydantic names the member first, which the request does not know.
        schema: Any = model.core_schema
        is_union = "tagged-union" in {schema["type"], schema.get("schema", {}).get("type")}
        raise problems.invalid(error, skip=1 if is_union else 0) from None


class _NotStrictError(ValueError):
    """JSON that parsers disagree about."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with two members of one name."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NotStrictError("a member is given more than once")
    return found


def _no_number(name: str) -> NoReturn:
    message = f"{name} is not a JSON number"
    raise _NotStrictError(message)
