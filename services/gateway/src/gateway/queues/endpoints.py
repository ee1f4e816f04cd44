"""How the queues stand, for operators."""

from __future__ import annotations

import dataclasses
from http import HTTPStatus

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from gateway import dependencies, openapi
from gateway.problems import Problem
from gateway.queues import schemas, service

router = APIRouter(prefix="/v1/queues", tags=["queues"], dependencies=[Depends(dependencies.operator)])


@router.get("", response_model=schemas.Queues, responses=openapi.problems(401, 403))
async def get_queues(request: Request) -> Response:
    """Show how every queue stands."""
    return JSONResponse({"queues": [dataclasses.asdict(state) for state in await _states(request)]})


@router.get("/{name}", response_model=schemas.QueueState, responses=openapi.problems(401, 403, 404))
async def get_queue(request: Request, name: str) -> Response:
    """Show how one queue stands: waiting, running, delayed, dead, and the age of what is next."""
    for state in await _states(request):
        if state.name == name:
            return JSONResponse(dataclasses.asdict(state))
    raise Problem(HTTPStatus.NOT_FOUND, "queue.not_found", "there is no such queue")


async def _states(request: Request) -> list[service.QueueState]:
    deps = dependencies.of(request)
    return await service.read(deps.redis, deps.settings.broker_prefix, deps.catalogue)
