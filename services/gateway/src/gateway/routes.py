"""The routes under /v1. Each post: read and check the request, build the chain, dispatch, answer 202."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ValidationError

from gateway import dispatch, problems, views
from gateway.bodies import json_body, openapi_body, schema_of
from gateway.problems import Problem
from gateway.requests import EmailRequest, ImageRequest, ReportRequest
from gateway.uploads import Upload
from offload_contracts import (
    NOTIFY,
    RENDER_REPORT,
    RESIZE_IMAGE,
    SEND_MAIL,
    THUMBNAIL_IMAGE,
    Notify,
    RenderReport,
    ResizeImage,
    SendMail,
    ThumbnailImage,
)
from offload_runtime import blobs, keys, links, records
from offload_runtime.messages import ChainStep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.app import Parts
    from gateway.auth import Caller

router = APIRouter(prefix="/v1")

_OUTPUT = re.compile(r"[a-z]+-[0-9a-f]{64}\.(?P<extension>jpg|png|webp|gif|avif|pdf)")
_MEDIA_TYPES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "avif": "image/avif",
    "pdf": "application/pdf",
}


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _caller(request: Request) -> Caller:
    # No dependency of FastAPI's: it would go through a thread for each request.
    return _parts(request).keys.caller(request)


def _parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the OpenAPI of a model's fields as query parameters."""
    return [
        {"name": name, "in": "query", "required": False, "schema": shape, "description": shape.get("description", "")}
        for name, shape in schema_of(model)["properties"].items()
    ]


_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": dispatch.MAX_IDEMPOTENCY_KEY_LENGTH},
    "description": "The same key and request give the same task, for a day at least; another request gets 422.",
}
_IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
            },
        },
    },
    "parameters": [*_parameters(ImageRequest), _KEY],
}


@router.post("/images", status_code=HTTPStatus.ACCEPTED, openapi_extra=_IMAGE_BODY, tags=["tasks"])
async def post_image(request: Request) -> Response:
    """Resize an image: the raw body, or the field `file` of a form. The options come as query or as fields."""
    parts, caller = _parts(request), _caller(request)
    key = dispatch.idempotency_key(request.headers)
    parts.dispatcher.check(caller, key)
    upload = Upload(request, parts.settings.upload_limit_bytes)
    query = dict(request.query_params)
    # What can be seen to be wrong already is refused before the body is read.
    _validated(ImageRequest, query)
    task_id = dispatch.new_task_id()
    source = blobs.upload_key(task_id)
    stored = await _store(parts, source, upload)
    try:
        fields = query | upload.fields
        options = _validated(ImageRequest, fields)
        resize = ResizeImage(
            source=source,
            width=options.width,
            height=options.height,
            fit=options.fit,
            format=options.format,
            animated=options.animated,
        )
        steps = [ChainStep.of(RESIZE_IMAGE, resize)]
        if options.thumbnail is not None:
            steps.append(
                ChainStep.of(
                    THUMBNAIL_IMAGE,
                    ThumbnailImage(longest_side=options.thumbnail, source=source, format=options.format),
                )
            )
        if options.notify is not None:
            steps.append(
                ChainStep.of(NOTIFY, Notify(to=options.notify, user_id=options.user_id, policy=options.notify_policy))
            )
        accepted = await parts.dispatcher.accept(
            caller,
            "image",
            steps,
            task_id=task_id,
            delay_seconds=options.delay_seconds,
            idempotency_key=key,
            fingerprint=dispatch.fingerprint("POST", request.url.path, fields, stored.sha256) if key else "",
            user_id=options.user_id,
            notify=options.notify,
            upload=source,
            upload_sha256=stored.sha256,
        )
    except Problem as problem:
        if problem.code != "accept.unknown":  # then the task may be there, and needs it
            await _forget(parts, source)
        raise
    if accepted.replayed:
        await _forget(parts, source)
    return _answer(parts, accepted, "image")


@router.post(
    "/emails",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=openapi_body(EmailRequest) | {"parameters": [_KEY]},
    tags=["tasks"],
)
async def post_email(request: Request) -> Response:
    """Send a mail, from a template and its context or from a subject and a text."""
    caller = _caller(request)
    options = await json_body(request, EmailRequest)
    # Each of these has been checked already, by the same types.
    message = SendMail.model_construct(
        to=options.to,
        template=options.template,
        context=options.context,
        subject=options.subject,
        text=options.text,
        policy=options.policy,
    )
    step = ChainStep.of(SEND_MAIL, message)
    return await _post(request, caller, "email", step, options, user_id=options.user_id)


@router.post(
    "/reports",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=openapi_body(ReportRequest) | {"parameters": [_KEY]},
    tags=["tasks"],
)
async def post_report(request: Request) -> Response:
    """Render a PDF report with a chart and a table."""
    caller = _caller(request)
    options = await json_body(request, ReportRequest)
    step = ChainStep.of(RENDER_REPORT, RenderReport(rows=options.rows, title=options.title))
    return await _post(request, caller, "report", step, options, user_id=options.user_id, notify=options.notify)


@router.get("/tasks/{task_id}", tags=["tasks"])
async def get_task(request: Request, task_id: str) -> Response:
    """Show how a task does: its state, a sentence for people, its steps, its error or its outputs."""
    caller = _caller(request)
    record = await _record(_parts(request), caller, task_id)
    return JSONResponse(views.task(record, operator=caller.is_operator))


@router.delete("/tasks/{task_id}", tags=["tasks"])
async def delete_task(request: Request, task_id: str) -> Response:
    """Cancel a task: 200 when it waited, 202 when a step runs and the task ends with it, 409 when it has ended."""
    parts, caller = _parts(request), _caller(request)
    await _record(parts, caller, task_id)
    settings = parts.settings
    keep_ms = settings.result_expires_seconds * 1000
    call = records.CANCEL(settings.key_prefix, settings.broker_prefix, task_id, keep_ms)
    outcome = (await call.run_async(parts.dispatcher.client)).decode()
    if outcome == "record.missing":
        raise problems.not_found()
    if outcome == "finished":
        raise Problem(HTTPStatus.CONFLICT, "task.finished", "the task has ended already")
    record = await _record(parts, caller, task_id)
    status = HTTPStatus.OK if outcome == "revoked" else HTTPStatus.ACCEPTED
    return JSONResponse(views.task(record, operator=caller.is_operator), status)


@router.get("/tasks/{task_id}/outputs/{name}", tags=["tasks"])
async def get_output(request: Request, task_id: str, name: str, token: str | None = None) -> Response:
    """Return one file that a task has made: with an API key, or with the token of a mail's link."""
    parts = _parts(request)
    match = _OUTPUT.fullmatch(name)
    if token is not None:
        try:
            links.verify(parts.settings.link_secret.get_secret_value(), task_id, name, token)
        except links.LinkExpiredError:
            raise _expired() from None
        except links.LinkError as error:
            raise Problem(HTTPStatus.FORBIDDEN, "link.invalid", str(error)) from None
    else:
        await _record(parts, _caller(request), task_id)
    if match is None:
        raise Problem(HTTPStatus.NOT_FOUND, "output.not_found", "the task has no such output")
    try:
        size, chunks = await parts.store.read(f"{blobs.OUTPUTS}{task_id}/{name}")
    except blobs.BlobNotFoundError:
        if token is not None:
            raise _expired() from None
        raise Problem(HTTPStatus.NOT_FOUND, "output.not_found", "the task has no such output") from None
    except blobs.BlobError:
        raise _storage_unavailable() from None
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": f'inline; filename="{name}"',
        # Named by content: the bytes under a name never change.
        "Cache-Control": "private, max-age=86400, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(chunks, media_type=_MEDIA_TYPES[match["extension"]], headers=headers)


async def _post(
    request: Request,
    caller: Caller,
    kind: str,
    step: ChainStep,
    options: EmailRequest | ReportRequest,
    **fields: str | None,
) -> Response:
    parts = _parts(request)
    key = dispatch.idempotency_key(request.headers)
    parts.dispatcher.check(caller, key)
    accepted = await parts.dispatcher.accept(
        caller,
        kind,
        [step],
        task_id=dispatch.new_task_id(),
        delay_seconds=options.delay_seconds,
        idempotency_key=key,
        fingerprint=_fingerprint(request, options) if key else "",
        **fields,
    )
    return _answer(parts, accepted, kind)


def _fingerprint(request: Request, options: BaseModel) -> str:
    return dispatch.fingerprint("POST", request.url.path, options.model_dump(mode="json", exclude_unset=True))


def _validated[M: BaseModel](model: type[M], fields: Mapping[str, str]) -> M:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise problems.invalid(error) from None


async def _store(parts: Parts, key: str, upload: Upload) -> blobs.Stored:
    try:
        return await parts.store.write(key, upload.chunks())
    except blobs.BlobError:
        raise _storage_unavailable() from None


async def _forget(parts: Parts, key: str) -> None:
    """Delete an upload that no task needs; what fails here is found by the clean-up."""
    try:
        await parts.store.delete_async(key)
    except blobs.BlobError:
        parts.metrics.leftover_uploads.inc()


async def _record(parts: Parts, caller: Caller, task_id: str) -> records.Record:
    """Return a task of this caller's.

    Raises:
        Problem: 404 ``task.not_found`` for what is not there, or is another key's.

    """
    raw = await parts.dispatcher.client.hgetall(keys.record(parts.settings.key_prefix, task_id))
    record = records.decode(task_id, raw)
    if record is None or (record.owner != caller.name and not caller.is_operator):
        raise problems.not_found()
    return record


def _answer(parts: Parts, accepted: dispatch.Accepted, kind: str) -> Response:
    url = views.status_url(accepted.task_id)
    headers = {"Location": url}
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    else:
        parts.metrics.accepted.labels(kind).inc()
    return JSONResponse({"task_id": accepted.task_id, "status_url": url}, HTTPStatus.ACCEPTED, headers)


def _storage_unavailable() -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "blob.unavailable",
        "the blob store cannot be reached or is full",
        retry_after=10,
    )


def _expired() -> Problem:
    return Problem(HTTPStatus.GONE, "output.expired", "this file has been deleted, or its link has expired")
