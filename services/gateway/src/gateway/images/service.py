"""Accepting an image: its file goes into the blob store first, and out again where the task is not accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.dispatch import new_task_id
from gateway.intake import idempotency
from gateway.problems import Problem, blobs_unavailable
from gateway.tasks.service import answer
from offload_contracts.images import RESIZE_IMAGE, THUMBNAIL_IMAGE, ResizeImage, ThumbnailImage
from offload_contracts.mails import NOTIFY, Notify
from offload_core import blobs
from offload_core.messages import NewStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import Response

    from gateway.auth import Caller
    from gateway.dependencies import Dependencies
    from gateway.images.schemas import ImageRequest
    from gateway.intake.uploads import Upload


async def accept(
    deps: Dependencies,
    caller: Caller,
    idempotency_key: idempotency.Key | None,
    path: str,
    upload: Upload,
    read_options: Callable[[], ImageRequest],
) -> Response:
    """Store an upload and accept the task for it; the options are read once the form that may hold them is there.

    Raises:
        Problem: 503 ``blob.unavailable``, and what `Upload.chunks`, the options and `Dispatcher.accept` refuse.

    """
    task_id = new_task_id()
    source = blobs.upload_key(task_id)
    try:
        stored = await deps.blobs.write(source, upload.chunks())
    except blobs.BlobError:
        raise blobs_unavailable() from None
    try:
        options = read_options()
        accepted = await deps.dispatcher.accept(
            caller,
            "image",
            chain(options, source),
            options,
            task_id=task_id,
            idempotency_key=idempotency_key,
            fingerprint=idempotency.fingerprint("POST", path, options, stored.sha256) if idempotency_key else "",
            user_id=options.user_id,
            notify=options.notify,
            upload=source,
            upload_sha256=stored.sha256,
            retain_ms=deps.settings.output_retention_ms,
        )
    except Problem as problem:
        if problem.code != "accept.unknown":  # then the task may be there, and needs it
            await _delete(deps, source)
        raise
    if accepted.replayed:
        await _delete(deps, source)
    return answer(deps, accepted, "image")


def chain(options: ImageRequest, source: str) -> list[NewStep]:
    """Return the steps that a request asks for: the resize, the thumbnail, the mail about them."""
    resize = ResizeImage(
        source=source,
        width=options.width,
        height=options.height,
        fit=options.fit,
        format=options.format,
        animated=options.animated,
    )
    steps = [NewStep.of(RESIZE_IMAGE, resize)]
    if options.thumbnail is not None:
        thumbnail = ThumbnailImage(longest_side=options.thumbnail, source=source, format=options.format)
        steps.append(NewStep.of(THUMBNAIL_IMAGE, thumbnail))
    if options.notify is not None:
        notify = Notify(to=options.notify, user_id=options.user_id, policy=options.notify_policy)
        steps.append(NewStep.of(NOTIFY, notify))
    return steps


async def _delete(deps: Dependencies, key: str) -> None:
    """Delete an upload that no task needs; what fails here is found by the clean-up."""
    try:
        await deps.blobs.delete_async(key)
    except blobs.BlobError:
        deps.metrics.leftover_uploads.inc()
