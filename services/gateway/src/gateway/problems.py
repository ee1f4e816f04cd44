"""Errors as RFC 9457 problem+json, each with a stable code."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from prometheus_client import Counter
    from pydantic import ValidationError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
# Redis is looked at each second.
RETRY_AFTER_SECONDS = 2


class Problem(Exception):  # noqa: N818 -- RFC 9457's own word
    """A request that is not served, and why."""

    def __init__(
        self, status: HTTPStatus, code: str, detail: str, *, retry_after: int | None = None, **more: object
    ) -> None:
        """`code` is stable; `detail` is for people; `retry_after` is in seconds."""
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.more = more

    def response(self) -> JSONResponse:
        """Return it as a response."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}:
            # The rest of the body is not waited for.
            headers["Connection"] = "close"
        if self.status is HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        body = {
            "type": f"urn:offload:problem:{self.code}",
            "title": self.status.phrase,
            "status": self.status.value,
            "code": self.code,
            "detail": self.detail,
            **self.more,
        }
        return JSONResponse(body, self.status, headers, MEDIA_TYPE)


def invalid(error: ValidationError | RequestValidationError) -> Problem:
    """Return the problem of a request whose fields are not right; the values themselves are not repeated."""
    errors = [
        {"field": ".".join(map(str, one["loc"])) or "body", "message": one["msg"].removeprefix("Value error, ")}
        for one in error.errors()
    ]
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "request.invalid",
        "; ".join(f"{one['field']}: {one['message']}" for one in errors),
        errors=errors,
    )


def not_found() -> Problem:
    """Return the problem of a task that is not there, or not this key's."""
    return Problem(HTTPStatus.NOT_FOUND, "task.not_found", "there is no such task")


def redis_unavailable() -> Problem:
    """Return the problem of a Redis that does not answer."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "redis.unavailable",
        "the queue cannot be reached; send the request again",
        retry_after=RETRY_AFTER_SECONDS,
    )


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
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        code = {404: "route.not_found", 405: "route.method_not_allowed"}.get(status, "request.failed")
        return answer(Problem(status, code, str(error.detail)))

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        logger.error("unforeseen", exc_info=error)
        text = "something went wrong that we did not foresee"
        return answer(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", text))
