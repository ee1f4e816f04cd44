"""API keys of tenants, for administrators."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from gateway import dependencies, openapi, paging
from gateway.api_keys import schemas, service
from gateway.audit import route as audit
from gateway.intake.bodies import json_body

router = APIRouter(prefix="/v1/keys", tags=["API keys"], **audit.ROUTER)


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    response_model=schemas.ApiKeyWithSecret,
    responses={201: {"headers": openapi.LOCATION}, **openapi.problems(401, 403, 404, 408, 413, 415, 422)},
    openapi_extra=openapi.json_request(schemas.NEW_API_KEY),
)
async def create_key(request: Request) -> Response:
    """Make an API key of a tenant. The response contains the key, which is never shown again."""
    asked = await json_body(request, schemas.NEW_API_KEY)
    key, text = await service.create(dependencies.of(request), asked)
    audit.note_resource(request, key.id)
    headers = {"Location": f"/v1/keys/{key.id}"}
    return JSONResponse(service.view(key) | {"key": text}, HTTPStatus.CREATED, headers)


@router.get("", response_model=schemas.ApiKeyList, responses=openapi.problems(401, 403, 422))
async def get_keys(request: Request, query: Annotated[schemas.ApiKeyQuery, Query()]) -> Response:
    """List API keys, the newest first. Keys of the gateway's configuration are not listed."""
    store = dependencies.of(request).keys.store
    found = [
        one for one in (await store.read()).api_keys.values() if query.tenant is None or one.tenant == query.tenant
    ]
    used_at = await store.used_at(one.id for one in found)
    rows = [(service.view(one, used_at.get(one.id)), [one.created_at, one.id]) for one in found]
    return paging.all_of(request, query, rows)


@router.get("/{key_id}", response_model=schemas.ApiKey, responses=openapi.problems(401, 403, 404))
async def get_key(request: Request, key_id: str) -> Response:
    """Show an API key."""
    deps = dependencies.of(request)
    key = await service.find(deps, key_id)
    used_at = await deps.keys.store.used_at([key.id])
    return JSONResponse(service.view(key, used_at.get(key.id)))


@router.post(
    "/{key_id}/rotate",
    response_model=schemas.ApiKeyWithSecret,
    responses=openapi.problems(401, 403, 404, 408, 413, 415, 422),
    openapi_extra=openapi.json_request(schemas.ROTATION),
)
async def rotate_key(request: Request, key_id: str) -> Response:
    """Replace an API key. The old key stays valid until the grace period ends; with 0 it ends within two seconds."""
    asked = await json_body(request, schemas.ROTATION)
    key, text = await service.rotate(dependencies.of(request), key_id, asked.grace_seconds)
    return JSONResponse(service.view(key) | {"key": text})


@router.delete("/{key_id}", status_code=HTTPStatus.NO_CONTENT, responses=openapi.problems(401, 403, 404))
async def revoke_key(request: Request, key_id: str) -> Response:
    """Revoke an API key. Every gateway refuses it within two seconds and closes its event streams."""
    await service.revoke(dependencies.of(request), key_id)
    return Response(status_code=HTTPStatus.NO_CONTENT)
