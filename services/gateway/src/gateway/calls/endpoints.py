"""Posting a call: read and check the request, accept a task of one step, answer 202."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway import dependencies, openapi
from gateway.calls import schemas
from gateway.intake.bodies import json_body
from gateway.tasks import service
from offload_contracts.calls import HTTP_CALL, Call
from offload_core.messages import NewStep

router = APIRouter(prefix="/v1/calls", tags=["tasks"])
# What a call sends along may be somebody's password.
HEADERS = "/headers"


@openapi.accepts_task(router, openapi.json_request(schemas.CALL))
async def post_call(request: Request) -> Response:
    """Call an HTTP server; try again when it does not answer, or answers that it cannot now."""
    caller = dependencies.caller(request)
    options = await json_body(request, schemas.CALL)
    # Each field has been checked already, by the same types.
    message = Call.model_construct(**{name: getattr(options, name) for name in Call.model_fields})
    options = options.model_copy(update={"private": (*options.private, HEADERS)})
    step = NewStep.of(HTTP_CALL, message)
    return await service.accept_json(request, caller, "call", [step], options, user_id=options.user_id)
