"""The catalogue of task types."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gateway import dependencies, openapi
from gateway.problems import Problem
from gateway.task_types import schemas, views

router = APIRouter(prefix="/v1/task-types", tags=["task types"])


@router.get("", response_model=schemas.TaskTypes, responses=openapi.problems(401))
async def get_task_types(request: Request) -> Response:
    """List the task types that can be posted: those of the built-in workers, and your own."""
    dependencies.caller(request)
    known = dependencies.of(request).catalogue
    return JSONResponse({"task_types": [views.task_type(known.versions(one.name)) for one in known.all()]})


@router.get("/{name}", response_model=schemas.TaskType, responses=openapi.problems(401, 404))
async def get_task_type(request: Request, name: str) -> Response:
    """Show one task type: its queue, the JSON Schemas of input and result, its versions, and when it was last seen."""
    dependencies.caller(request)
    versions = dependencies.of(request).catalogue.versions(name)
    if not versions:
        raise Problem(HTTPStatus.NOT_FOUND, "task_type.not_found", "there is no such task type")
    return JSONResponse(views.task_type(versions))
