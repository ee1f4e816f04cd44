"""Events over HTTP: of one task, of all tasks of a caller, and tokens for browsers, which can send no API key."""

from __future__ import annotations

import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from gateway import dependencies, openapi
from gateway.edge import IS_HEAD
from gateway.events import schemas, stream
from gateway.intake.bodies import json_body
from gateway.problems import Problem, invalid_fields
from gateway.tasks import service, views
from gateway.timestamps import rfc3339
from offload_core import events, keys, links, records

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.dependencies import Dependencies

router = APIRouter(prefix="/v1", tags=["events"])

MEDIA_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
# Before the server would cut the connection off.
_SHARE_OF_REQUEST_TIME = 0.9
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events, each with the id from which to go on: `Last-Event-ID`.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    },
}
LastId = Annotated[str | None, Query(max_length=events.MAX_ID_LENGTH, description="As the header Last-Event-ID.")]
LastIdHeader = Annotated[str | None, Header(alias="Last-Event-ID", max_length=events.MAX_ID_LENGTH)]


@router.get(
    "/tasks/{task_id}/events",
    response_class=Response,
    responses=STREAM
    | {204: {"description": "The task has ended, and its last event is known already."}}
    | openapi.problems(401, 403, 404, 410, 422),
    openapi_extra={"security": [*openapi.SECURITY, {}]},
)
async def get_task_events(
    request: Request,
    task_id: str,
    token: str | None = None,
    last_event_id: LastId = None,
    last_event_id_header: LastIdHeader = None,
) -> Response:
    """Follow one task: all of its events so far, and those to come, until it has ended (`event: end`)."""
    deps = dependencies.of(request)
    if token is not None:
        _check(deps, task_id, token)
        found = await service.read(deps, task_id)
    else:
        found = await service.find(deps, dependencies.caller(request), task_id)
    if found is None:
        raise service.not_found()
    task_id = found.task_id
    has_ended = isinstance(found, records.Ended) or found.state in records.TERMINAL

    async def snapshot() -> dict[str, Any]:
        now = await service.read(deps, task_id) or found
        return views.task(now, operator=False)

    return await follow(
        request,
        keys.events(deps.settings.key_prefix, task_id),
        last_event_id_header or last_event_id,
        snapshot=snapshot,
        ends=events.ENDS,
        is_over=has_ended,
    )


@router.get("/events", response_class=Response, responses=STREAM | openapi.problems(401, 422))
async def get_events(
    request: Request, last_event_id: LastId = None, last_event_id_header: LastIdHeader = None
) -> Response:
    """Follow all tasks of the caller from now on, or from an event; for operators everybody's."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    owner, prefix = "" if caller.is_operator else caller.tenant, deps.settings.key_prefix

    async def snapshot() -> dict[str, Any]:
        async with deps.redis.pipeline(transaction=False) as pipe:
            for state in records.STATES:
                pipe.zcard(keys.tasks(prefix, owner, state))
            counts = await pipe.execute()
        return {"tasks": dict(zip(records.STATES, counts, strict=True))}

    last_id = last_event_id_header or last_event_id
    return await follow(request, keys.owner_events(prefix, owner), last_id, snapshot=snapshot)


@router.post(
    "/tokens",
    status_code=HTTPStatus.CREATED,
    response_model=schemas.Token,
    responses=openapi.problems(401, 404, 408, 413, 415, 422),
    openapi_extra=openapi.json_request(schemas.TOKEN),
)
async def post_token(request: Request) -> Response:
    """Make a token that may read one task's events and outputs: for a browser, which can send no API key."""
    deps, caller = dependencies.of(request), dependencies.caller(request)
    asked = await json_body(request, schemas.TOKEN)
    found = await service.find(deps, caller, asked.task_id)
    expires_at = int(time.time()) + asked.ttl_seconds
    secret = deps.settings.link_secret.get_secret_value()
    token = links.sign(secret, found.task_id, links.TASK, expires_at)
    shown = {
        "token": token,
        "expires_at": rfc3339(expires_at * 1000),
        "events_url": f"{views.status_url(found.task_id)}/events?token={token}",
    }
    return JSONResponse(shown, HTTPStatus.CREATED)


async def follow(
    request: Request,
    key: str,
    last_id: str | None,
    *,
    snapshot: Any,  # noqa: ANN401 -- a function
    ends: Collection[str] = (),
    is_over: bool = False,
) -> Response:
    """Answer with a stream's events behind an id. `snapshot` and `ends` are those of `stream.Follower`.

    Without an id they begin with the first one, or with the next where nothing `ends` the stream. Of one that `is_over`
    and has nothing behind the id, 204.

    Raises:
        Problem: 422 ``request.invalid`` for what is no id, 503 ``events.busy``.

    """
    last_id = _position(last_id)
    extent = await stream.extent(dependencies.of(request).redis, key)
    if is_over and last_id is not None and events.position(last_id) >= events.position(extent.last):
        return Response(status_code=HTTPStatus.NO_CONTENT)
    last_id = last_id or (stream.BEGIN if ends else extent.last)
    deps = dependencies.of(request)
    request.state.is_endless = True
    if IS_HEAD in request.scope:
        return Response(media_type=MEDIA_TYPE, headers=_HEADERS)
    if deps.hub.count >= deps.settings.event_streams_limit:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE, "events.busy", "too many clients follow events here", retry_after=5
        )
    follower = stream.Follower(
        deps.redis, deps.hub, key, snapshot=snapshot, ends=ends,
        limit_seconds=deps.settings.request_timeout_seconds * _SHARE_OF_REQUEST_TIME,
        watch=partial(deps.keys.telling, request),
    )  # fmt: skip
    return StreamingResponse(follower.frames(last_id, extent, is_over=is_over), media_type=MEDIA_TYPE, headers=_HEADERS)


def _check(deps: Dependencies, task_id: str, token: str) -> None:
    try:
        links.verify(deps.settings.link_secret.get_secret_value(), task_id, links.TASK, token)
    except links.LinkExpiredError:
        raise Problem(HTTPStatus.GONE, "token.expired", "this token has expired") from None
    except links.LinkError:
        raise Problem(HTTPStatus.FORBIDDEN, "token.invalid", "this token was not made for this task") from None


def _position(last_id: str | None) -> str | None:
    """Return the id from which a client wants to go on; None for none.

    Raises:
        Problem: 422 ``request.invalid``.

    """
    if not last_id:
        return None
    try:
        events.position(last_id)
    except ValueError as error:
        raise invalid_fields({"Last-Event-ID": str(error)}) from None
    return last_id
