"""The routes under /v1. Each post: read and check the request, build the chain, dispatch, answer 202."""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from gateway import dispatch, idempotency, openapi, outputs, problems, schemas, views
from gateway.bodies import json_body
from gateway.intake import CONNECTION_BYTES
from gateway.problems import Problem
from gateway.requests import EMAIL, REPORT, ImageRequest, ReportRequest, TemplateEmail, TextEmail
from gateway.uploads import Upload
from offload_contracts import (
    NOTIFY,
    RENDER_REPORT,
    RESIZE_IMAGE,
    SEND_MAIL,
    THUMBNAIL_IMAGE,
    ImageFormat,
    Notify,
    RenderReport,
    ResizeImage,
    SendMail,
    ThumbnailImage,
)
from offload_core import blobs, keys, links, records
from offload_core.messages import ChainStep
from offload_core.task_store import TaskStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.app import Parts
    from gateway.auth import Caller

router = APIRouter(prefix="/v1")

NOTIFY_HEADER = "Offload-Notify"


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _caller(request: Request) -> Caller:
    # No dependency of FastAPI's: it would go through a thread for each request.
    return _parts(request).keys.caller(request)


_ACCEPTED = {
    202: {"model": schemas.Accepted, "headers": openapi.ACCEPTED_HEADERS},
    **openapi.problems(401, 408, 413, 415, 422, 429),
}
_FILE = {"type": "string", "format": "binary", "minLength": 1}
_OPTIONS = openapi.query(ImageRequest)
_IMAGE = {
    "requestBody": {
        "required": True,
        "content": {
            # Its own image/… type does as well; generators of clients know this one.
            "application/octet-stream": {"schema": _FILE},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": _FILE} | {one["name"]: one["schema"] for one in _OPTIONS},
                    "required": ["file"],
                    "additionalProperties": False,
                },
                "encoding": {"file": {"contentType": ", ".join(f"image/{one.value}" for one in ImageFormat)}},
            },
        },
    },
    "parameters": [*_OPTIONS, openapi.IDEMPOTENCY_KEY],
}


@router.post("/images", status_code=HTTPStatus.ACCEPTED, responses=_ACCEPTED, openapi_extra=_IMAGE, tags=["tasks"])
async def post_image(request: Request) -> Response:
    """Resize an image: the raw body, or the field `file` of a form. The options come as query or as fields."""
    parts, caller = _parts(request), _caller(request)
    key = idempotency.key_of(request.headers)
    parts.admission.check(caller, key)
    upload = Upload(request, parts.settings.upload_limit_bytes)
    query, headers = _in_query(request), _in_headers(request)
    # What can be seen to be wrong already is refused before the body is read.
    _validated(ImageRequest, query)
    _validated(ImageRequest, headers)
    memory = parts.store.write_memory_bytes(upload.expected_bytes) + CONNECTION_BYTES
    async with parts.intake.share(memory):
        return await _accept_image(request, caller, key, upload, query, headers)


async def _accept_image(
    request: Request,
    caller: Caller,
    key: str | None,
    upload: Upload,
    query: dict[str, str],
    headers: dict[str, str],
) -> Response:
    parts = _parts(request)
    task_id = dispatch.new_task_id()
    source = blobs.upload_key(task_id)
    stored = await _store(parts, source, upload)
    try:
        # A field of the form counts more than the query, and the header more than both.
        options = _validated(ImageRequest, query | upload.fields).model_copy(update=headers)
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
            thumbnail = ThumbnailImage(longest_side=options.thumbnail, source=source, format=options.format)
            steps.append(ChainStep.of(THUMBNAIL_IMAGE, thumbnail))
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
            fingerprint=idempotency.fingerprint("POST", request.url.path, options, stored.sha256) if key else "",
            user_id=options.user_id,
            notify=options.notify,
            upload=source,
            upload_sha256=stored.sha256,
            retain_ms=_retain_ms(parts),
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
    responses=_ACCEPTED,
    openapi_extra=openapi.json_request(EMAIL) | {"parameters": [openapi.IDEMPOTENCY_KEY]},
    tags=["tasks"],
)
async def post_email(request: Request) -> Response:
    """Send a mail, from a template and its context or from a subject and a text."""
    caller = _caller(request)
    options = await json_body(request, EMAIL)
    # Each of these has been checked already, by the same types.
    if isinstance(options, TextEmail):
        content: dict[str, Any] = {"subject": options.subject, "text": options.text}
    else:
        content = {"template": options.template, "context": options.context.model_dump(mode="json", exclude_unset=True)}
    message = SendMail.model_construct(
        to=options.to, policy=options.policy, individually=options.individually, **content
    )
    step = ChainStep.of(SEND_MAIL, message)
    return await _post(request, caller, "email", step, options, user_id=options.user_id)


@router.post(
    "/reports",
    status_code=HTTPStatus.ACCEPTED,
    responses=_ACCEPTED,
    openapi_extra=openapi.json_request(ReportRequest) | {"parameters": [openapi.IDEMPOTENCY_KEY]},
    tags=["tasks"],
)
async def post_report(request: Request) -> Response:
    """Render a PDF report with a chart and a table."""
    parts, caller = _parts(request), _caller(request)
    options = await json_body(request, REPORT)
    step = ChainStep.of(RENDER_REPORT, RenderReport(rows=options.rows, title=options.title))
    return await _post(
        request,
        caller,
        "report",
        step,
        options,
        user_id=options.user_id,
        notify=options.notify,
        retain_ms=_retain_ms(parts),
    )


@router.get("/tasks/{task_id}", responses=openapi.responses(schemas.Task, errors=(401, 404)), tags=["tasks"])
async def get_task(request: Request, task_id: str) -> Response:
    """Show a task: its state, a sentence for people, its steps, its error or its outputs."""
    caller = _caller(request)
    return JSONResponse(_shown(await _found(_parts(request), caller, task_id), caller))


@router.delete(
    "/tasks/{task_id}", responses=openapi.responses(schemas.Task, 200, 202, errors=(401, 404, 409)), tags=["tasks"]
)
async def delete_task(request: Request, task_id: str) -> Response:
    """Cancel a task: 200 when it waited, 202 when a step runs and the task ends with it, 409 when it has ended."""
    parts, caller = _parts(request), _caller(request)
    if isinstance(await _found(parts, caller, task_id), records.Ended):
        raise _finished()
    outcome = (await TaskStore.of(parts.settings).cancel(task_id).run_async(parts.redis)).decode()
    if outcome == "record.missing":
        raise problems.not_found()
    if outcome == "finished":
        raise _finished()
    status = HTTPStatus.OK if outcome == "revoked" else HTTPStatus.ACCEPTED
    return JSONResponse(_shown(await _found(parts, caller, task_id), caller), status)


_OUTPUT_RESPONSES = (
    {
        status: {
            "description": text,
            "content": {media_type: {"schema": _FILE} for media_type in sorted({*outputs.MEDIA_TYPES.values()})},
        }
        for status, text in ((200, "The file."), (206, "The part of it that was asked for."))
    }
    | {304: {"description": "It has not changed."}}
    | openapi.problems(401, 403, 404, 410, 416)
)


@router.get(
    "/tasks/{task_id}/outputs/{name}",
    response_class=Response,
    responses=_OUTPUT_RESPONSES,
    openapi_extra={"security": [*openapi.SECURITY, {}]},
    tags=["tasks"],
)
async def get_output(request: Request, task_id: str, name: str, token: str | None = None) -> Response:
    """Return one file that a task has made: with an API key, or with the token of a mail's link."""
    parts = _parts(request)
    match = outputs.NAME.fullmatch(name)
    if token is not None:
        try:
            links.verify(parts.settings.link_secret.get_secret_value(), task_id, name, token)
        except links.LinkExpiredError:
            raise _expired() from None
        except links.LinkError:
            raise Problem(HTTPStatus.FORBIDDEN, "link.invalid", "this link was not made for this file") from None
    else:
        await _found(parts, _caller(request), task_id)
    if match is None:
        raise Problem(HTTPStatus.NOT_FOUND, "output.not_found", "the task has no such output")
    try:
        return await outputs.respond(request, parts.store, task_id, match)
    except blobs.BlobNotFoundError:
        if token is not None:
            raise _expired() from None
        raise Problem(HTTPStatus.NOT_FOUND, "output.not_found", "the task has no such output") from None
    except blobs.BlobError:
        raise _storage_unavailable() from None


async def _post(
    request: Request,
    caller: Caller,
    kind: str,
    step: ChainStep,
    options: TextEmail | TemplateEmail | ReportRequest,
    **fields: str | None,
) -> Response:
    parts = _parts(request)
    key = idempotency.key_of(request.headers)
    parts.admission.check(caller, key)
    accepted = await parts.dispatcher.accept(
        caller,
        kind,
        [step],
        task_id=dispatch.new_task_id(),
        delay_seconds=options.delay_seconds,
        idempotency_key=key,
        fingerprint=idempotency.fingerprint("POST", request.url.path, options) if key else "",
        **fields,
    )
    return _answer(parts, accepted, kind)


def _in_query(request: Request) -> dict[str, str]:
    """Return the options in the query.

    Raises:
        Problem: 422 ``request.invalid`` where one is given more than once.

    """
    counts = Counter(name for name, _ in request.query_params.multi_items())
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise problems.invalid_fields(dict.fromkeys(twice[: problems.MAX_ERRORS], "is given more than once"))
    return dict(request.query_params)


def _in_headers(request: Request) -> dict[str, str]:
    """Return the option that has a header.

    Raises:
        Problem: 422 ``request.invalid`` where it is given more than once.

    """
    given = request.headers.getlist(NOTIFY_HEADER)
    if len(given) > 1:
        raise problems.invalid_fields({NOTIFY_HEADER: "is given more than once"})
    return {"notify": given[0]} if given else {}


def _retain_ms(parts: Parts) -> str:
    return str(parts.settings.output_retention_seconds * 1000)


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


async def _found(parts: Parts, caller: Caller, task_id: str) -> records.Record | records.Ended:
    """Return a task of this caller's, or what is left of it.

    Raises:
        Problem: 404 ``task.not_found`` for what is not there, or is another key's.

    """
    client, prefix = parts.redis, parts.settings.key_prefix
    found: records.Record | records.Ended | None = records.decode(
        task_id, await client.hgetall(keys.record(prefix, task_id))
    )
    if found is None:
        found = records.decode_ended(task_id, await client.hgetall(keys.ended(prefix, task_id)))
    if found is None or (found.owner != caller.name and not caller.is_operator):
        raise problems.not_found()
    return found


def _shown(found: records.Record | records.Ended, caller: Caller) -> dict[str, Any]:
    if isinstance(found, records.Ended):
        return views.ended_task(found)
    return views.task(found, operator=caller.is_operator)


def _finished() -> Problem:
    return Problem(HTTPStatus.CONFLICT, "task.finished", "the task has ended already")


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
