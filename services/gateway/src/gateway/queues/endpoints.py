"""Queues, for operators: how they stand, pausing and limiting them."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gateway import dependencies, openapi
from gateway.audit import route as audit
from gateway.intake.bodies import json_body
from gateway.queues import schemas, service

router = APIRouter(prefix="/v1/queues", tags=["queues"], **audit.ROUTER)

_BODY = openapi.problems(401, 403, 404, 408, 413, 415, 422)


@router.get("", response_model=schemas.Queues, responses=openapi.problems(401, 403))
async def get_queues(request: Request) -> Response:
    """Show how every queue stands."""
    deps = dependencies.of(request)
    states = await service.read(deps.redis, deps.settings.broker_prefix, deps.catalogue)
    return JSONResponse({"queues": [state.view() for state in states]})


@router.get("/{name}", response_model=schemas.QueueState, responses=openapi.problems(401, 403, 404))
async def get_queue(request: Request, name: str) -> Response:
    """Show how one queue stands: waiting, running, delayed, dead, the age of what is next, its pause and its limits."""
    return await _shown(request, name)


@router.patch(
    "/{name}",
    response_model=schemas.QueueState,
    responses=_BODY,
    openapi_extra=openapi.json_request(schemas.LIMITS_CHANGE),
)
async def limit_queue(request: Request, name: str) -> Response:
    """Limit how many messages of a queue run at once and how many are delivered per second. Others wait."""
    deps = dependencies.of(request)
    await service.check(deps, name)
    await service.limit(deps, name, await json_body(request, schemas.LIMITS_CHANGE))
    return await _shown(request, name)


@router.put(
    "/{name}/pause",
    response_model=schemas.QueueState,
    responses=_BODY,
    openapi_extra=openapi.json_request(schemas.PAUSE),
)
async def pause_queue(request: Request, name: str) -> Response:
    """Pause a queue: workers take no messages from it. Running tasks finish; new tasks are accepted and wait."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    await service.check(deps, name)
    await service.pause(deps, caller.tenant, name, await json_body(request, schemas.PAUSE))
    return await _shown(request, name)


@router.delete("/{name}/pause", status_code=HTTPStatus.NO_CONTENT, responses=openapi.problems(401, 403, 404))
async def resume_queue(request: Request, name: str) -> Response:
    """Resume a queue. One that is not paused stays as it is."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    await service.check(deps, name)
    await service.resume(deps, caller.tenant, name)
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _shown(request: Request, name: str) -> Response:
    state = await service.find(dependencies.of(request), name)
    return JSONResponse(state.view())
