"""Posting a mail: read and check the request, accept a task of one step, answer 202."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from gateway import dependencies, openapi
from gateway.emails import schemas
from gateway.intake.bodies import json_body
from gateway.tasks import service
from offload_contracts.mails import SEND_MAIL, SendMail
from offload_core.messages import NewStep

router = APIRouter(prefix="/v1/emails", tags=["tasks"])


@openapi.accepts_task(router, openapi.json_request(schemas.EMAIL))
async def post_email(request: Request) -> Response:
    """Send a mail, from a template and its context or from a subject and a text."""
    caller = dependencies.caller(request)
    options = await json_body(request, schemas.EMAIL)
    # Each of these has been checked already, by the same types.
    if isinstance(options, schemas.TextEmail):
        content: dict[str, Any] = {"subject": options.subject, "text": options.text}
    else:
        content = {"template": options.template, "context": options.context.model_dump(mode="json", exclude_unset=True)}
    message = SendMail.model_construct(
        to=options.to, policy=options.policy, individually=options.individually, **content
    )
    step = NewStep.of(SEND_MAIL, message)
    return await service.accept_json(request, caller, "email", [step], options, user_id=options.user_id)
