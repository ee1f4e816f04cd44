"""Tasks: accepting any that the catalogue has, showing and cancelling them, and the files they made.

The built-in tasks have routes of their own beside it, each in its folder.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from gateway import dependencies, openapi, paging
from gateway.intake.bodies import json_body
from gateway.problems import Problem, blobs_unavailable
from gateway.tasks import listing, outputs, schemas, service, views, workflows
from offload_core import blobs, links
from offload_core.task_store import Place

if TYPE_CHECKING:
    from gateway.auth import Caller
    from gateway.dependencies import Dependencies

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@openapi.accepts_task(router, openapi.json_request_by_reference(schemas.TASK))
async def post_task(request: Request) -> Response:
    """Run a task of any type that is registered, or a workflow of several steps."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    asked = await json_body(request, schemas.TASK)
    stages = workflows.stages(asked, deps.catalogue)
    retain_ms = deps.settings.output_retention_ms
    return await service.accept_json(request, caller, "task", stages, asked, retain_ms=retain_ms)


@router.get("", response_model=schemas.TaskList, responses=openapi.problems(401, 403, 422))
async def get_tasks(request: Request, query: Annotated[schemas.TaskQuery, Query()]) -> Response:
    """List tasks, the newest first: the caller's own, for operators everybody's, as long as their records are kept."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    if query.tenant is not None and not caller.is_operator:
        raise Problem(HTTPStatus.FORBIDDEN, "auth.scope", "tenant needs an API key with the scope operator")
    wanted = service.wanted(query, caller)
    cursors, place, newer = paging.place(request, query, wanted.owner)
    found = await listing.page(
        deps.redis, deps.tasks, wanted, limit=query.limit, place=Place(*place) if place else None, newer=newer
    )
    return paging.answer(
        request,
        found.rows,
        following=cursors.write(found.older) if found.older else None,
        preceding=cursors.write(found.newer) if found.newer else None,
    )


@router.get("/{task_id}", response_model=schemas.Task, responses=openapi.problems(401, 404))
async def get_task(request: Request, task_id: str) -> Response:
    """Show a task: its state, a summary for people, its steps, its error or its outputs."""
    return await _show(dependencies.of(request), dependencies.caller(request), task_id, HTTPStatus.OK)


@router.delete(
    "/{task_id}",
    response_model=schemas.Task,
    responses={202: {"model": schemas.Task}, **openapi.problems(401, 404, 409)},
)
async def delete_task(request: Request, task_id: str) -> Response:
    """Cancel a task: 200 when it waited, 202 when a step runs and the task ends with it, 409 when it has ended."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    has_ended = await service.cancel(deps, caller, task_id)
    return await _show(deps, caller, task_id, HTTPStatus.OK if has_ended else HTTPStatus.ACCEPTED)


@router.delete("/{task_id}/data", response_model=schemas.Task, responses=openapi.problems(401, 404, 409))
async def delete_data(request: Request, task_id: str) -> Response:
    """Erase the input, the result and the files of a task that has ended; when it ran and how it ended is kept."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    await service.erase(deps, caller, task_id)
    return await _show(deps, caller, task_id, HTTPStatus.OK)


async def _show(deps: Dependencies, caller: Caller, task_id: str, status: HTTPStatus) -> Response:
    found = await service.find(deps, caller, task_id)
    return JSONResponse(views.task(found, operator=caller.is_operator), status)


_OUTPUT_RESPONSES = (
    {
        status: {
            "description": text,
            # Of any media type that a task writes; some are named for generators of clients.
            "content": {
                media_type: {"schema": openapi.FILE}
                for media_type in ("*/*", *sorted(outputs.SHOWN - {"application/json"}))
            },
        }
        for status, text in ((200, "The file."), (206, "The part of it that was asked for."))
    }
    | {304: {"description": "It has not changed."}}
    | openapi.problems(401, 403, 404, 410, 416)
)


@router.get(
    "/{task_id}/outputs/{name}",
    response_class=Response,
    responses=_OUTPUT_RESPONSES,
    openapi_extra={"security": [*openapi.SECURITY, {}]},
)
async def get_output(request: Request, task_id: str, name: str, token: str | None = None) -> Response:
    """Return one file that a task has made: with an API key, a token for the task, or that of a mail's link."""
    deps = dependencies.of(request)
    match = outputs.NAME.fullmatch(name)
    if token is not None:
        try:
            links.verify(deps.settings.link_secret.get_secret_value(), task_id, name, token)
        except links.LinkExpiredError:
            raise _expired() from None
        except links.LinkError:
            raise Problem(HTTPStatus.FORBIDDEN, "link.invalid", "this link was not made for this file") from None
    else:
        await service.find(deps, dependencies.caller(request), task_id)
    if match is None:
        raise Problem(HTTPStatus.NOT_FOUND, "output.not_found", "the task has no such output")
    try:
        return await outputs.respond(request, deps.blobs, task_id, match)
    except blobs.BlobNotFoundError:
        if token is not None:
            raise _expired() from None
        raise Problem(HTTPStatus.NOT_FOUND, "output.not_found", "the task has no such output") from None
    except blobs.BlobError:
        raise blobs_unavailable() from None


def _expired() -> Problem:
    return Problem(HTTPStatus.GONE, "output.expired", "this file has been deleted, or its link has expired")
