"""The OpenAPI document and its page, with the task types that are registered now."""

from __future__ import annotations

import hashlib
import json
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from gateway import dependencies
from gateway.task_types.openapi import with_task_types

router = APIRouter(include_in_schema=False)

PATH = "/openapi.json"


@router.get(PATH)
async def get_document(request: Request) -> Response:
    """Return the document. Its ETag changes when a task type does: a generator of clients need not run before."""
    text, tag = _document(request)
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(text, media_type="application/json", headers=headers)


@router.get("/docs")
async def get_page(request: Request) -> Response:
    """Return the page that shows the document."""
    return get_swagger_ui_html(openapi_url=PATH, title=request.app.title)


def _document(request: Request) -> tuple[bytes, str]:
    """Return the text and its tag: written anew only when the newest version of a task type has changed."""
    known, state = dependencies.of(request).catalogue, request.app.state
    if getattr(state, "document_version", None) != known.version:
        text = json.dumps(with_task_types(request.app.openapi(), known.all()), separators=(",", ":")).encode()
        state.document = text, f'"{hashlib.sha256(text).hexdigest()[:32]}"'
        state.document_version = known.version
    document: tuple[bytes, str] = state.document
    return document
