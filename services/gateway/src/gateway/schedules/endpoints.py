"""Schedules: what is run again and again, by cron expressions or at intervals."""

from __future__ import annotations

import re
import zoneinfo
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from gateway import dependencies, openapi, paging
from gateway.intake import idempotency
from gateway.intake.bodies import json_body
from gateway.problems import Problem
from gateway.schedules import schemas, service
from gateway.schedules.schemas import ScheduleQuery, TenantQuery
from gateway.tasks import service as tasks
from gateway.tasks.schemas import Accepted
from offload_core.schedules import KIND

if TYPE_CHECKING:
    from offload_core.schedules import Schedule

router = APIRouter(prefix="/v1", tags=["schedules"])

_Name = Annotated[str, Path(pattern=schemas.NAME, description="Its name: of `A-Za-z0-9_.-`, 100 at most.")]
_Tenant = Annotated[TenantQuery, Query()]
_BODY = openapi.problems(401, 403, 404, 408, 413, 415, 422)
_ONE: dict[int | str, dict[str, Any]] = {200: {"headers": schemas.ETAG}}
_IF_MATCH = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": text,
    }
    for name, text in (
        ("If-Match", "The `ETag` of the schedule as you read it: 412 if it has changed since."),
        ("If-None-Match", "`*`: create only; 412 if the schedule exists."),
    )
]
_REVISION = re.compile(r'"([0-9]{1,15})"')


@router.put(
    "/schedules/{name}",
    response_model=schemas.Schedule,
    responses={
        200: {"headers": schemas.ETAG},
        201: {"model": schemas.Schedule, "headers": schemas.ETAG},
        **openapi.problems(401, 403, 408, 409, 412, 413, 415, 422),
    },
    openapi_extra={**openapi.json_request(schemas.NEW_SCHEDULE), "parameters": _IF_MATCH},
)
async def put_schedule(request: Request, name: _Name, query: _Tenant) -> Response:
    """Create or replace a schedule. A change never runs occurrences of the past."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    owner = service.owner(caller, query.tenant)
    asked = await json_body(request, schemas.NEW_SCHEDULE)
    if_match, must_be_new = request.headers.get("if-match"), request.headers.get("if-none-match") == "*"
    revision = None
    if if_match is not None:
        match = _REVISION.fullmatch(if_match.strip())
        if match is None and if_match.strip() != "*":
            raise service.changed()
        try:
            known = await service.find(deps, owner, name)
        except Problem:
            raise service.changed() from None
        revision = int(match[1]) if match else known.revision
    schedule, is_new = await service.put(deps, owner, name, asked, revision, must_be_new=must_be_new)
    return _shown(request, schedule, HTTPStatus.CREATED if is_new else HTTPStatus.OK)


@router.get("/schedules", response_model=schemas.ScheduleList, responses=openapi.problems(401, 403, 422))
async def get_schedules(request: Request, query: Annotated[ScheduleQuery, Query()]) -> Response:
    """List schedules, the newest first: the caller's own, for operators everybody's."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    owner = "" if caller.is_operator and query.tenant is None else service.owner(caller, query.tenant)
    cursors, place, newer = paging.place(request, query, owner)
    found, more = await service.newest(deps, owner, query.limit, place, newer=newer)
    now = service.now(deps)
    rows = [(service.view(one, now), [one.created_at, one.key]) for one in found]
    return paging.page(request, cursors, rows, place, newer=newer, more=more)


@router.get("/schedules/{name}", response_model=schemas.Schedule, responses=_ONE | openapi.problems(401, 403, 404, 422))
async def get_schedule(request: Request, name: _Name, query: _Tenant) -> Response:
    """Show a schedule, with its next five runs and its last one."""
    return _shown(request, await _find(request, name, query))


@router.delete("/schedules/{name}", status_code=HTTPStatus.NO_CONTENT, responses=openapi.problems(401, 403, 404, 422))
async def delete_schedule(request: Request, name: _Name, query: _Tenant) -> Response:
    """Delete a schedule. Its tasks stay."""
    await service.delete(dependencies.of(request), await _find(request, name, query))
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.post(
    "/schedules/{name}/pause",
    response_model=schemas.Schedule,
    responses=_ONE | _BODY,
    openapi_extra=openapi.json_request(schemas.PAUSE),
)
async def pause_schedule(request: Request, name: _Name, query: _Tenant) -> Response:
    """Pause a schedule. Running tasks continue; occurrences during the pause are not run later."""
    schedule = await _find(request, name, query)
    asked = await json_body(request, schemas.PAUSE)
    return _shown(request, await service.pause(dependencies.of(request), schedule, asked.note))


@router.post(
    "/schedules/{name}/resume",
    response_model=schemas.Schedule,
    responses=_ONE | openapi.problems(401, 403, 404, 422),
)
async def resume_schedule(request: Request, name: _Name, query: _Tenant) -> Response:
    """Resume a paused schedule, from its next occurrence on."""
    return _shown(request, await service.resume(dependencies.of(request), await _find(request, name, query)))


@router.post(
    "/schedules/{name}/trigger",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Accepted,
    responses={202: {"headers": openapi.CREATED_HEADERS}, **openapi.problems(401, 403, 404, 422, 429)},
    openapi_extra={"parameters": [openapi.IDEMPOTENCY_KEY]},
)
async def trigger_schedule(request: Request, name: _Name, query: _Tenant) -> Response:
    """Run a schedule's task now, even while the schedule is paused or another task of it runs."""
    schedule = await _find(request, name, query)
    key = idempotency.key_of(request.headers)
    fingerprint = idempotency.fingerprint("POST", request.url.path, query) if key else ""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    return tasks.answer(deps, await service.trigger(deps, caller, schedule, key, fingerprint), KIND)


@router.post(
    "/schedules/{name}/backfill",
    status_code=HTTPStatus.ACCEPTED,
    response_model=schemas.Backfilled,
    responses=openapi.problems(401, 403, 404, 408, 409, 413, 415, 422, 429),
    openapi_extra=openapi.json_request(schemas.BACKFILL),
)
async def backfill_schedule(request: Request, name: _Name, query: _Tenant) -> Response:
    """Run up to 1,000 occurrences of the past. An occurrence whose task still has a record is not run again."""
    schedule = await _find(request, name, query)
    asked = await json_body(request, schemas.BACKFILL)
    deps, caller = dependencies.of(request), dependencies.caller(request)
    task_ids = await service.backfill(deps, caller, schedule, asked)
    return JSONResponse({"occurrences": len(task_ids), "task_ids": task_ids}, HTTPStatus.ACCEPTED)


@router.post(
    "/schedules/preview",
    response_model=schemas.Previewed,
    responses=openapi.problems(401, 408, 413, 415, 422),
    openapi_extra=openapi.json_request(schemas.PREVIEW),
)
async def preview_schedule(request: Request) -> Response:
    """Show when a schedule would run, without creating one."""
    deps, _ = dependencies.of(request), dependencies.caller(request)
    asked = await json_body(request, schemas.PREVIEW)
    return JSONResponse(service.preview(asked, service.now(deps)))


@router.get("/time-zones", response_model=schemas.TimeZones, responses=openapi.problems(401))
async def get_time_zones(request: Request) -> Response:
    """List the names of all time zones."""
    dependencies.caller(request)
    return JSONResponse({"time_zones": sorted(zoneinfo.available_timezones())})


async def _find(request: Request, name: str, query: TenantQuery) -> Schedule:
    owner = service.owner(dependencies.caller(request), query.tenant)
    return await service.find(dependencies.of(request), owner, name)


def _shown(request: Request, schedule: Schedule, status: HTTPStatus = HTTPStatus.OK) -> Response:
    now = service.now(dependencies.of(request))
    return JSONResponse(service.view(schedule, now), status, {"ETag": f'"{schedule.revision}"'})
