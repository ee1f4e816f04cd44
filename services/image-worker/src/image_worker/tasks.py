"""The image worker's tasks: unwrap the message, call one pure function, wrap the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from image_worker import reports
from image_worker.app import worker
from offload_contracts.images import RESIZE_IMAGE, THUMBNAIL_IMAGE, Outputs, ResizeImage, ThumbnailImage
from offload_contracts.reports import RENDER_REPORT, RenderReport
from offload_core.errors import PermanentError

if TYPE_CHECKING:
    from image_worker.sandbox import Sandbox
    from offload_worker import Run


@worker.task(RESIZE_IMAGE)
def resize(message: ResizeImage, run: Run[Sandbox]) -> Outputs:
    """Fit an image into a box."""
    image = run.resources.resize(
        _source(message.source, run),
        width=message.width,
        height=message.height,
        fit=message.fit,
        target=message.format,
        animated=message.animated,
    )
    run.write_output("resize", image.data, image.media_type, width=image.width, height=image.height)
    return run.outputs


@worker.task(THUMBNAIL_IMAGE)
def thumbnail(message: ThumbnailImage, run: Run[Sandbox]) -> Outputs:
    """Make a small copy of an image."""
    side = message.longest_side
    image = run.resources.resize(_source(message.source, run), width=side, height=side, target=message.format)
    run.write_output("thumbnail", image.data, image.media_type, width=image.width, height=image.height)
    return run.outputs


@worker.task(RENDER_REPORT)
def render(message: RenderReport, run: Run[Sandbox]) -> Outputs:
    """Render a PDF report."""
    pdf = reports.render(message.title, message.rows, run.progress)
    run.write_output("report", pdf.data, reports.MEDIA_TYPE, pages=pdf.pages)
    return run.outputs


def _source(key: str | None, run: Run[Sandbox]) -> bytes:
    """Return the image to work on: that of the message, or the newest that the steps before have made."""
    if key is not None:
        return run.read_blob(key)
    images = [output for output in run.outputs.outputs if output.media_type.startswith("image/")]
    if not images:
        raise PermanentError("blob.missing", "there is no image: name a source, or make one in a step before")
    return run.read_output(images[-1])
