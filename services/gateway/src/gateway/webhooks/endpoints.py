"""Webhooks: the endpoints of a tenant, what they were sent, and sending it again."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from gateway import dependencies, openapi, paging
from gateway.intake import idempotency
from gateway.intake.bodies import json_body
from gateway.paging import PageQuery
from gateway.webhooks import schemas, service, views
from offload_core import signing, webhooks

if TYPE_CHECKING:
    from offload_core.webhooks import Endpoint

router = APIRouter(prefix="/v1", tags=["webhooks"])
_CHANGES = openapi.problems(401, 404, 408, 413, 415, 422)


@router.post(
    "/webhooks",
    status_code=HTTPStatus.CREATED,
    response_model=schemas.WebhookWithSecret,
    responses={201: {"headers": openapi.CREATED_HEADERS}, **openapi.problems(401, 408, 409, 413, 415, 422)},
    openapi_extra={**openapi.json_request(schemas.NEW_WEBHOOK), "parameters": [openapi.IDEMPOTENCY_KEY]},
)
async def post_webhook(request: Request) -> Response:
    """Have events posted to a URL. The answer holds the secret of their signatures, which is never shown again."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    asked = await json_body(request, schemas.NEW_WEBHOOK)
    key = idempotency.key_of(request.headers)
    fingerprint = idempotency.fingerprint("POST", request.url.path, asked) if key else ""
    endpoint, is_replayed = await service.create(deps, caller, asked, key, fingerprint)
    headers = idempotency.created_headers(f"/v1/webhooks/{endpoint.id}", is_replayed=is_replayed)
    return JSONResponse(views.webhook(endpoint, with_secret=True), HTTPStatus.CREATED, headers)


@router.get("/webhooks", response_model=schemas.WebhookList, responses=openapi.problems(401, 422))
async def get_webhooks(request: Request, query: Annotated[PageQuery, Query()]) -> Response:
    """List endpoints, the newest first: the caller's own, for operators everybody's."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    owner = "" if caller.is_operator else caller.tenant
    cursors, place, newer = paging.place(request, query, owner)
    found, more = await service.newest(deps, owner, query.limit, place, newer=newer)
    return paging.page(
        request,
        cursors,
        [(views.webhook(one), [one.created_at, one.id]) for one in found],
        place,
        newer=newer,
        more=more,
    )


@router.get("/webhooks/{webhook_id}", response_model=schemas.Webhook, responses=openapi.problems(401, 404))
async def get_webhook(request: Request, webhook_id: str) -> Response:
    """Show an endpoint, and how it does."""
    return JSONResponse(views.webhook(await _find(request, webhook_id)))


@router.patch(
    "/webhooks/{webhook_id}",
    response_model=schemas.Webhook,
    responses=_CHANGES,
    openapi_extra=openapi.json_request(schemas.CHANGE),
)
async def patch_webhook(request: Request, webhook_id: str) -> Response:
    """Change an endpoint, disable it, or let it go on."""
    endpoint = await _find(request, webhook_id)
    asked = await json_body(request, schemas.CHANGE)
    return JSONResponse(views.webhook(await service.change(dependencies.of(request), endpoint, asked)))


@router.delete("/webhooks/{webhook_id}", status_code=HTTPStatus.NO_CONTENT, responses=openapi.problems(401, 404))
async def delete_webhook(request: Request, webhook_id: str) -> Response:
    """Delete an endpoint. What waits to be delivered to it fails."""
    deps = dependencies.of(request)
    await webhooks.delete(deps.redis, deps.settings.key_prefix, await _find(request, webhook_id))
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.post(
    "/webhooks/{webhook_id}/rotate",
    response_model=schemas.WebhookWithSecret,
    responses=_CHANGES,
    openapi_extra=openapi.json_request(schemas.ROTATION),
)
async def rotate_secret(request: Request, webhook_id: str) -> Response:
    """Replace the secret. The old one signs as well until its grace period ends."""
    endpoint = await _find(request, webhook_id)
    asked = await json_body(request, schemas.ROTATION)
    rotated = await service.rotate(dependencies.of(request), endpoint, asked.grace_seconds)
    return JSONResponse(views.webhook(rotated, with_secret=True))


@router.post(
    "/webhooks/{webhook_id}/test",
    status_code=HTTPStatus.ACCEPTED,
    response_model=schemas.Sent,
    responses=openapi.problems(401, 404),
)
async def test_webhook(request: Request, webhook_id: str) -> Response:
    """Send the event `webhook.test`."""
    event, task_id = await service.test(dependencies.of(request), await _find(request, webhook_id))
    return JSONResponse({"event": event, "task_id": task_id}, HTTPStatus.ACCEPTED)


@router.get(
    "/webhooks/{webhook_id}/attempts", response_model=schemas.AttemptList, responses=openapi.problems(401, 404, 422)
)
async def get_attempts(request: Request, webhook_id: str, query: Annotated[PageQuery, Query()]) -> Response:
    """List the last thousand attempts or so at an endpoint, the newest first."""
    endpoint = await _find(request, webhook_id)
    cursors, place, newer = paging.place(request, query, endpoint.owner)
    deps = dependencies.of(request)
    found, more = await service.attempts(deps, endpoint, query.limit, place[0] if place else None, newer=newer)
    rows = [(views.attempt(text), [entry]) for entry, text in found]
    return paging.page(request, cursors, rows, place, newer=newer, more=more)


@router.post(
    "/webhooks/{webhook_id}/resend",
    status_code=HTTPStatus.ACCEPTED,
    response_model=schemas.Sent,
    responses=_CHANGES,
    openapi_extra=openapi.json_request(schemas.RESEND),
)
async def resend_event(request: Request, webhook_id: str) -> Response:
    """Send an event again, with the same `webhook-id`, as long as its task has a record."""
    endpoint = await _find(request, webhook_id)
    asked = await json_body(request, schemas.RESEND)
    task_id = await service.resend(dependencies.of(request), endpoint, asked.event)
    return JSONResponse({"event": asked.event, "task_id": task_id}, HTTPStatus.ACCEPTED)


@router.post(
    "/webhooks/{webhook_id}/recover",
    status_code=HTTPStatus.ACCEPTED,
    response_model=schemas.Recovered,
    responses=_CHANGES,
    openapi_extra=openapi.json_request(schemas.RECOVERY),
)
async def recover_events(request: Request, webhook_id: str) -> Response:
    """Start the failed deliveries of a time span again, up to a thousand in one request."""
    endpoint = await _find(request, webhook_id)
    asked = await json_body(request, schemas.RECOVERY)
    resent, is_complete = await service.recover(dependencies.of(request), endpoint, asked.since, asked.until)
    return JSONResponse({"resent": resent, "is_complete": is_complete}, HTTPStatus.ACCEPTED)


@router.get("/signing-secret", response_model=schemas.SigningSecret, responses=openapi.problems(401))
async def get_signing_secret(request: Request) -> Response:
    """Show what signs the caller's callbacks and its calls with `sign`."""
    caller = dependencies.caller(request)
    link_secret = dependencies.of(request).settings.link_secret.get_secret_value()
    return JSONResponse({"secret": signing.secret_of(link_secret, caller.tenant)})


async def _find(request: Request, webhook_id: str) -> Endpoint:
    return await service.find(dependencies.of(request), dependencies.caller(request), webhook_id)
