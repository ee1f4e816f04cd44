"""Bulk operations, for operators: cancel, redrive or delete many tasks at once."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gateway import dependencies, openapi
from gateway.audit import route as audit
from gateway.bulk import schemas, service
from gateway.intake import idempotency
from gateway.intake.bodies import json_body

router = APIRouter(prefix="/v1/bulk", tags=["bulk"], **audit.ROUTER)


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    response_model=schemas.Bulk,
    responses={202: {"headers": openapi.CREATED_HEADERS}, **openapi.problems(401, 403, 408, 409, 413, 415, 422)},
    openapi_extra={**openapi.json_request(schemas.NEW_BULK), "parameters": [openapi.IDEMPOTENCY_KEY]},
)
async def begin_bulk(request: Request) -> Response:
    """Do one thing to many tasks, by their ids or by a filter. Three may be under way at once."""
    asked = await json_body(request, schemas.NEW_BULK)
    key = idempotency.key_of(request.headers)
    fingerprint = idempotency.fingerprint("POST", request.url.path, asked) if key else ""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    bulk, is_replayed = await service.begin(deps, caller, asked, key, fingerprint)
    audit.note_resource(request, bulk.id)
    headers = idempotency.created_headers(f"/v1/bulk/{bulk.id}", is_replayed=is_replayed)
    return JSONResponse(service.view(bulk), HTTPStatus.ACCEPTED, headers)


@router.get("/{bulk_id}", response_model=schemas.Bulk, responses=openapi.problems(401, 403, 404))
async def get_bulk(request: Request, bulk_id: str) -> Response:
    """Show how far a bulk operation is, until a week after its end."""
    return JSONResponse(service.view(await service.find(dependencies.of(request), bulk_id)))


@router.post(
    "/{bulk_id}/abort",
    status_code=HTTPStatus.ACCEPTED,
    response_model=schemas.Bulk,
    responses=openapi.problems(401, 403, 404),
)
async def abort_bulk(request: Request, bulk_id: str) -> Response:
    """Stop a bulk operation. What it has done stays done."""
    deps = dependencies.of(request)
    return JSONResponse(service.view(await service.abort(deps, await service.find(deps, bulk_id))), HTTPStatus.ACCEPTED)
