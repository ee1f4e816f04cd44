"""The audit, for administrators: as a list in pages, and whole as newline-delimited JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from gateway import dependencies, openapi, paging
from gateway.audit import schemas, service
from gateway.intake.bodies import NDJSON

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[Depends(dependencies.permitted)])

_EXPORT: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {NDJSON: {"schema": {"type": "string"}}},
        "description": "A page, or with `Accept: application/x-ndjson` every row on a line of its own.",
    }
}


@router.get("", response_model=schemas.AuditList, responses=_EXPORT | openapi.problems(400, 401, 403, 422))
async def get_audit(request: Request, query: Annotated[schemas.AuditFilter, Query()]) -> Response:
    """List requests of operators and administrators that change something, the newest first. They are kept for 90 days.

    With `Accept: application/x-ndjson` the response contains all of them, the oldest first.
    """
    deps = dependencies.of(request)
    client, prefix = deps.redis, deps.settings.key_prefix
    if NDJSON in request.headers.get("accept", ""):
        return StreamingResponse(service.export(client, prefix, query), media_type=NDJSON)
    cursors, place, newer = paging.place(request, query, "")
    rows, more = await service.newest(client, prefix, query, query.limit, place[0] if place else None, newer=newer)
    return paging.page(request, cursors, rows, place, newer=newer, more=more)
