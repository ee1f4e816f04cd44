"""The image worker's tasks: unwrap the message, call one pure function, wrap the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from image_worker import reports
from offload_contracts import (
    RENDER_REPORT,
    RESIZE_IMAGE,
    THUMBNAIL_IMAGE,
    Output,
    Outputs,
    RenderReport,
    ResizeImage,
    ThumbnailImage,
)
from offload_core import blobs
from offload_core.errors import PermanentError, TemporaryError
from offload_worker.steps import Policy, Run, register

if TYPE_CHECKING:
    from celery import Celery

    from image_worker.images import Rendered
    from image_worker.sandbox import Sandbox
    from image_worker.settings import ImageWorkerSettings


def register_all(app: Celery, settings: ImageWorkerSettings, store: blobs.BlobStore, sandbox: Sandbox) -> None:
    """Give the application its tasks."""

    def resize(message: ResizeImage, run: Run) -> Outputs:
        image = sandbox.resize(
            _read(store, message.source),
            width=message.width,
            height=message.height,
            fit=message.fit,
            target=message.format,
            animated=message.animated,
        )
        return run.outputs.plus(_write_image(store, run, "resize", image))

    def thumbnail(message: ThumbnailImage, run: Run) -> Outputs:
        source = message.source or next(output.key for output in run.outputs.outputs if output.step == "resize")
        side = message.longest_side
        image = sandbox.resize(_read(store, source), width=side, height=side, target=message.format)
        return run.outputs.plus(_write_image(store, run, "thumbnail", image))

    def render(message: RenderReport, run: Run) -> Outputs:
        pdf = reports.render(message.title, message.rows, run.progress)
        output = _write(store, run, "report", pdf.data, "pdf", reports.MEDIA_TYPE)
        return run.outputs.plus(output.model_copy(update={"pages": pdf.pages}))

    policy = Policy.doubling(settings.max_retries, settings.retry_backoff_seconds)
    register(app, RESIZE_IMAGE, resize, policy)
    register(app, THUMBNAIL_IMAGE, thumbnail, policy)
    register(app, RENDER_REPORT, render, policy)


def _read(store: blobs.BlobStore, key: str) -> bytes:
    try:
        return store.get(key)
    except blobs.BlobNotFoundError:
        raise PermanentError("blob.missing", "the file to work on is not there any more") from None
    except blobs.BlobError:
        raise TemporaryError("blob.unavailable", "the blob store cannot be reached") from None


def _write_image(store: blobs.BlobStore, run: Run, step: str, image: Rendered) -> Output:
    output = _write(store, run, step, image.data, image.extension, image.media_type)
    return output.model_copy(update={"width": image.width, "height": image.height})


def _write(store: blobs.BlobStore, run: Run, step: str, data: bytes, extension: str, media_type: str) -> Output:
    """Write an output under the name of its content: a second run writes the same blob."""
    sha256 = blobs.digest(data)
    key = blobs.output_key(run.task_id, step, sha256, extension)
    try:
        store.put(key, data)
    except blobs.BlobError:
        raise TemporaryError("blob.unavailable", "the blob store takes nothing") from None
    name = key.rpartition("/")[2]
    return Output(name=name, step=step, key=key, media_type=media_type, size_bytes=len(data), sha256=sha256)
