"""The route of what operators and administrators may do: each request that would change something is written down."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import Depends
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from opentelemetry import trace
from redis.exceptions import RedisError

from gateway import auth, dependencies
from gateway.audit.service import Row, append
from gateway.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fastapi import Request, Response

logger = logging.getLogger(__name__)

# Of a text that a client has sent.
MAX_TEXT_LENGTH = 200


class AuditedRoute(APIRoute):
    """Writes one row for each request that is not a read, whatever became of it: also of one that was refused."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what serves a request."""
        serve = super().get_route_handler()
        if (self.methods or set()) <= {"GET", "HEAD"}:
            return serve

        async def audited(request: Request) -> Response:
            result = HTTPStatus.INTERNAL_SERVER_ERROR.value
            try:
                response = await serve(request)
                result = response.status_code
            except Problem as problem:
                result = problem.status.value
                raise
            except RequestValidationError:
                result = HTTPStatus.UNPROCESSABLE_ENTITY.value
                raise
            except RedisError:
                result = HTTPStatus.SERVICE_UNAVAILABLE.value
                raise
            finally:
                await self._write(request, result)
            return response

        return audited

    async def _write(self, request: Request, result: int) -> None:
        deps, span = dependencies.of(request), trace.get_current_span().get_span_context()
        caller = dependencies.known_caller(request)
        if caller is None:
            return  # nobody whom Offload knows: the refusals of strangers are counted, and kept out of here
        resource = getattr(request.state, "audited_resource", "") or "/".join(map(str, request.path_params.values()))
        row = Row(
            actor=caller.tenant,
            key_prefix=auth.token_of(request)[: auth.SHOWN_LENGTH],
            action=self.name,
            resource_type=str(self.tags[0]).rstrip("s"),
            resource_id=resource[:MAX_TEXT_LENGTH],
            ip=request.client.host if request.client else "",
            user_agent=request.headers.get("user-agent", "")[:MAX_TEXT_LENGTH],
            trace_id=f"{span.trace_id:032x}" if span.is_valid else "",
            result=result,
        )
        try:
            await append(deps.redis, deps.settings.key_prefix, row)
        except RedisError:
            # What was done is done. Whoever collects the logs has the row.
            logger.exception("a row of the audit could not be written: %s", row)


# Of a router of such routes, which looks at a request's key before anything else.
ROUTER: dict[str, Any] = {"dependencies": [Depends(dependencies.permitted)], "route_class": AuditedRoute}


def note_resource(request: Request, resource_id: str) -> None:
    """Note what a request is about, where its path does not say."""
    request.state.audited_resource = resource_id
