"""Errors as RFC 9457 problem+json, each with a stable code."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import Match

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Request
    from prometheus_client import Counter
    from pydantic import ValidationError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
# What a person reads of a list of errors; without a bound one body of unknown fields would be answered with megabytes.
MAX_ERRORS = 20
MAX_FIELD_LENGTH = 200
_WORDS = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "json_invalid": "is not JSON",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be a smaller integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be an array",
    "tuple_type": "must be an array",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
}
# Redis is looked at each second.
RETRY_AFTER_SECONDS = 2


class Problem(Exception):  # noqa: N818 -- RFC 9457's own word
    """A request that is not served, and why."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        detail: str,
        *,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        """`code` is stable; `detail` is for people; `retry_after` is in seconds; `more` are members of its body."""
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.headers = headers or {}
        self.more = more

    def body(self) -> dict[str, object]:
        """Return the members of its JSON object."""
        return {
            "type": f"urn:offload:problem:{self.code}",
            "title": self.status.phrase,
            "status": self.status.value,
            "code": self.code,
            "detail": self.detail,
            **self.more,
        }

    def response(self) -> JSONResponse:
        """Return it as a response."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status is HTTPStatus.UNAUTHORIZED:
            # RFC 6750, section 3: the error is named where a key was sent.
            headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if self.code == "auth.refused" else "Bearer"
        return JSONResponse(self.body(), self.status, headers, MEDIA_TYPE)


def invalid(error: ValidationError | RequestValidationError, *, skip: int = 0) -> Problem:
    """Return the problem of a request whose fields are not right; the values themselves are not repeated.

    The first `skip` parts of each field's place are left out.
    """
    found = error.errors()
    errors = {}
    for one in found[:MAX_ERRORS]:
        where = [
            str(part)
            for part in one["loc"][skip:]
            # A name in angle brackets is that of a member of a union, which the request does not know.
            if part not in {"body", "query", "path", "header"} and not str(part).startswith("<")
        ]
        errors[(".".join(where) or "body")[:MAX_FIELD_LENGTH]] = _in_words(one)
    return invalid_fields(errors, left_out=max(len(found) - MAX_ERRORS, 0))


def invalid_fields(errors: Mapping[str, str], *, left_out: int = 0) -> Problem:
    """Return the problem of fields that are not right, each with what is wrong about it."""
    detail = "; ".join(f"{field}: {message}" for field, message in errors.items())
    if left_out:
        detail += f"; and {left_out:,} more"
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "request.invalid",
        detail,
        errors=field_errors(errors),
    )


def field_errors(errors: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the member `errors` of a problem: fields, each with what is wrong about it."""
    return [{"field": field, "message": message} for field, message in errors.items()]


def _in_words(error: Any) -> str:  # noqa: ANN401 -- pydantic's details of an error
    """Return what is wrong, in JSON's words where pydantic has Python's."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _WORDS:
        return _WORDS[kind].format(**context)
    return str(error["msg"]).removeprefix("Value error, ")


def blobs_unavailable() -> Problem:
    """Return the problem of a blob store that does not answer, or takes nothing."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "blob.unavailable",
        "the blob store cannot be reached or is full",
        retry_after=10,
    )


def redis_unavailable() -> Problem:
    """Return the problem of a Redis that does not answer."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "redis.unavailable",
        "the queue cannot be reached; send the request again",
        retry_after=RETRY_AFTER_SECONDS,
    )


def _allowed(app: FastAPI, request: Request) -> str:
    """Return every method of a path, of all its routes together."""
    # A path that is written out is no name of something.
    if written_out := app.openapi()["paths"].get(request.url.path):
        methods = {method.upper() for method in written_out}
    else:
        methods = {
            method
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
            for route in app.router.routes
            if route.matches({**request.scope, "method": method})[0] is Match.FULL
        }
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def install(app: FastAPI, counter: Counter) -> None:
    """Answer every error of the application as a problem, and count it by its code."""

    def answer(problem: Problem) -> JSONResponse:
        counter.labels(problem.code).inc()
        return problem.response()

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RedisError)
    async def redis(_: Request, error: RedisError) -> JSONResponse:
        logger.warning("Redis did not answer: %s", error)
        return answer(redis_unavailable())

    @app.exception_handler(RequestValidationError)
    async def fields(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(invalid(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        code = {404: "route.not_found", 405: "route.method_not_allowed"}.get(status, "request.failed")
        headers = {"Allow": _allowed(app, request)} if status is HTTPStatus.METHOD_NOT_ALLOWED else {}
        return answer(Problem(status, code, str(error.detail), headers=headers))

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        logger.error("unforeseen", exc_info=error)
        text = "an unexpected error occurred"
        return answer(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", text))
