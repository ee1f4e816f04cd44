"""The image worker's tasks: unwrap the message, call one pure function, wrap the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from image_worker import reports
from image_worker.app import worker
from offload_contracts.images import RESIZE_IMAGE, THUMBNAIL_IMAGE, Output, Outputs, ResizeImage, ThumbnailImage
from offload_contracts.reports import RENDER_REPORT, RenderReport
from offload_core import blobs
from offload_core.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from image_worker.app import Resources
    from image_worker.images import Rendered
    from offload_worker.steps import Run


@worker.task(RESIZE_IMAGE)
def resize(message: ResizeImage, run: Run[Resources]) -> Outputs:
    """Fit an image into a box."""
    store, sandbox = run.resources.store, run.resources.sandbox
    image = sandbox.resize(
        _read(store, message.source),
        width=message.width,
        height=message.height,
        fit=message.fit,
        target=message.format,
        animated=message.animated,
    )
    return run.outputs.plus(_write_image(run, "resize", image))


@worker.task(THUMBNAIL_IMAGE)
def thumbnail(message: ThumbnailImage, run: Run[Resources]) -> Outputs:
    """Make a small copy of the upload, or of what the resize has made."""
    store, sandbox = run.resources.store, run.resources.sandbox
    source = message.source or next(output.key for output in run.outputs.outputs if output.step == "resize")
    side = message.longest_side
    image = sandbox.resize(_read(store, source), width=side, height=side, target=message.format)
    return run.outputs.plus(_write_image(run, "thumbnail", image))


@worker.task(RENDER_REPORT)
def render(message: RenderReport, run: Run[Resources]) -> Outputs:
    """Render a PDF report."""
    pdf = reports.render(message.title, message.rows, run.progress)
    output = _write(run, "report", pdf.data, "pdf", reports.MEDIA_TYPE)
    return run.outputs.plus(output.model_copy(update={"pages": pdf.pages}))


def _read(store: blobs.BlobStore, key: str) -> bytes:
    try:
        return store.get(key)
    except blobs.BlobNotFoundError:
        raise PermanentError("blob.missing", "the file to work on is not there any more") from None
    except blobs.BlobError:
        raise TemporaryError("blob.unavailable", "the blob store cannot be reached") from None


def _write_image(run: Run[Resources], step: str, image: Rendered) -> Output:
    output = _write(run, step, image.data, image.extension, image.media_type)
    return output.model_copy(update={"width": image.width, "height": image.height})


def _write(run: Run[Resources], step: str, data: bytes, extension: str, media_type: str) -> Output:
    """Write an output under the name of its content: a second run writes the same blob."""
    sha256 = blobs.digest(data)
    key = blobs.output_key(run.task_id, step, sha256, extension)
    try:
        run.resources.store.put(key, data)
    except blobs.BlobError:
        raise TemporaryError("blob.unavailable", "the blob store takes nothing") from None
    name = key.rpartition("/")[2]
    return Output(name=name, step=step, key=key, media_type=media_type, size_bytes=len(data), sha256=sha256)
