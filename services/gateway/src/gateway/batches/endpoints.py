"""Batches: many tasks in one request, or in many, counted together, and what follows when they have ended."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from gateway import dependencies, openapi, paging
from gateway.batches import schemas, service
from gateway.events import endpoints as events
from gateway.intake import bodies, idempotency
from offload_core import keys
from offload_core.events import BATCH_ENDS

router = APIRouter(prefix="/v1/batches", tags=["batches"])

_LINES = {"requestBody": {"required": True, "content": {bodies.NDJSON: {"schema": schemas.LINE}}}}


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    response_model=schemas.NewBatch,
    responses={202: {"headers": openapi.CREATED_HEADERS}, **openapi.problems(401, 408, 409, 413, 415, 422, 429)},
    openapi_extra={
        **openapi.json_request_by_reference(schemas.NEW_BATCH),
        "parameters": [openapi.IDEMPOTENCY_KEY],
    },
)
async def post_batch(request: Request) -> Response:
    """Create a batch: with up to 1,000 items, or with the number of items that will be sent later."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    key = idempotency.key_of(request.headers)
    deps.admission.check(caller, key)
    asked = await bodies.json_body(request, schemas.NEW_BATCH)
    fingerprint = idempotency.fingerprint("POST", request.url.path, asked) if key else ""
    batch_id, is_replayed = await service.create(deps, caller, asked, key, fingerprint)
    items = None if isinstance(asked, schemas.LongBatch) else await service.add_all(deps, caller, batch_id, asked)
    headers = idempotency.created_headers(f"/v1/batches/{batch_id}", is_replayed=is_replayed)
    answer = {"id": batch_id, "sealed": items is not None, "items": items}
    return JSONResponse(answer, HTTPStatus.ACCEPTED, headers)


@router.get("/{batch_id}", response_model=schemas.Batch, responses=openapi.problems(401, 404))
async def get_batch(request: Request, batch_id: str) -> Response:
    """Show a batch with its counts, until a week after its end."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    return JSONResponse(service.view(await service.find(deps, caller, batch_id)))


@router.delete(
    "/{batch_id}",
    status_code=HTTPStatus.ACCEPTED,
    response_model=schemas.Batch,
    responses=openapi.problems(401, 404, 409),
)
async def delete_batch(request: Request, batch_id: str) -> Response:
    """Cancel the tasks of a batch that have not ended, and take no more items. 409 when the batch has ended."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    batch = await service.find(deps, caller, batch_id)
    await service.cancel(deps, batch)
    return JSONResponse(service.view(await service.find(deps, caller, batch_id)), HTTPStatus.ACCEPTED)


@router.post(
    "/{batch_id}/items",
    response_model=schemas.Added,
    responses=openapi.problems(401, 404, 408, 409, 413, 415, 422, 429),
    openapi_extra=_LINES,
)
async def post_items(request: Request, batch_id: str) -> Response:
    """Add items to a batch, one JSON object per line. After an error send all again: each index becomes one task."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    batch = await service.find(deps, caller, batch_id, owned=True)
    tally = await service.add_lines(deps, caller, batch, bodies.lines(request))
    return JSONResponse(
        {
            "accepted": tally.accepted,
            "deduplicated": tally.deduplicated,
            "rejected": tally.rejected,
            "have": tally.have,
            "expected": batch.expected,
            "sealed": tally.is_sealed,
        }
    )


@router.get("/{batch_id}/items", response_model=schemas.ItemList, responses=openapi.problems(401, 404, 422))
async def get_items(request: Request, batch_id: str, query: Annotated[schemas.ItemQuery, Query()]) -> Response:
    """List a batch's items by index, until a week after its end."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    batch = await service.find(deps, caller, batch_id)
    cursors, place, is_newer = paging.place(request, query, caller.tenant)
    states, index = query.state.split(",") if query.state else (), int(place[0]) if place else None
    rows, beyond = await service.page(deps, batch, states, limit=query.limit, place=index, newer=is_newer)
    # The items on the other side of this page are those that its cursor came from.
    behind = None if index is None else (rows[-1 if is_newer else 0]["index"] if rows else index)
    following, preceding = (behind, beyond) if is_newer else (beyond, behind)
    return paging.answer(
        request,
        rows,
        following=cursors.write([following]) if following is not None else None,
        preceding=cursors.write([preceding]) if preceding is not None else None,
    )


@router.get(
    "/{batch_id}/events",
    response_class=Response,
    responses=events.STREAM
    | {204: {"description": "The batch has ended, and its last event is known already."}}
    | openapi.problems(401, 404, 422),
)
async def get_batch_events(
    request: Request,
    batch_id: str,
    last_event_id: events.LastId = None,
    last_event_id_header: events.LastIdHeader = None,
) -> Response:
    """Follow a batch: an event for each task that ends, until all have ended (`event: end`)."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    batch = await service.find(deps, caller, batch_id)

    async def snapshot() -> dict[str, Any]:
        return service.view(await service.find(deps, caller, batch_id))

    return await events.follow(
        request,
        keys.events(deps.settings.key_prefix, batch.id),
        last_event_id_header or last_event_id,
        snapshot=snapshot,
        ends=BATCH_ENDS,
        is_over=batch.completed_at is not None,
    )
