"""Tenants, for administrators."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from gateway import dependencies, openapi, paging
from gateway.audit import route as audit
from gateway.intake.bodies import json_body
from gateway.paging import PageQuery
from gateway.tenants import schemas, service

router = APIRouter(prefix="/v1/tenants", tags=["tenants"], **audit.ROUTER)

_Name = Annotated[str, Path(pattern=schemas.NAME)]
_BODY = openapi.problems(401, 403, 404, 408, 413, 415, 422)


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    response_model=schemas.Tenant,
    responses={201: {"headers": openapi.LOCATION}, **openapi.problems(401, 403, 408, 409, 413, 415, 422)},
    openapi_extra=openapi.json_request(schemas.NEW_TENANT),
)
async def create_tenant(request: Request) -> Response:
    """Create a tenant: an application or team with its own API keys and limits."""
    asked = await json_body(request, schemas.NEW_TENANT)
    audit.note_resource(request, asked.name)
    tenant = await service.create(dependencies.of(request), asked)
    headers = {"Location": f"/v1/tenants/{tenant.name}"}
    return JSONResponse(service.view(tenant), HTTPStatus.CREATED, headers)


@router.get("", response_model=schemas.TenantList, responses=openapi.problems(401, 403, 422))
async def get_tenants(request: Request, query: Annotated[PageQuery, Query()]) -> Response:
    """List tenants, the newest first."""
    tenants = (await dependencies.of(request).keys.store.read()).tenants.values()
    return paging.all_of(request, query, [(service.view(one), [one.created_at, one.name]) for one in tenants])


@router.get("/{name}", response_model=schemas.Tenant, responses=openapi.problems(401, 403, 404, 422))
async def get_tenant(request: Request, name: _Name) -> Response:
    """Show a tenant."""
    return JSONResponse(service.view(await service.find(dependencies.of(request), name)))


@router.patch(
    "/{name}", response_model=schemas.Tenant, responses=_BODY, openapi_extra=openapi.json_request(schemas.TENANT_CHANGE)
)
async def change_tenant(request: Request, name: _Name) -> Response:
    """Change a tenant. Every gateway applies the change within two seconds."""
    asked = await json_body(request, schemas.TENANT_CHANGE)
    return JSONResponse(service.view(await service.change(dependencies.of(request), name, asked)))


@router.delete("/{name}", status_code=HTTPStatus.NO_CONTENT, responses=openapi.problems(401, 403, 404, 409, 422))
async def delete_tenant(request: Request, name: _Name) -> Response:
    """Delete a tenant that has no API keys. Its tasks and schedules stay."""
    await service.delete(dependencies.of(request), name)
    return Response(status_code=HTTPStatus.NO_CONTENT)
