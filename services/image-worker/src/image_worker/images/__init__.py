"""Images, as pure functions from bytes to bytes.

Untrusted bytes come in: the formats are an allow-list, limits and memory are checked on the header before a pixel is
decoded, damage is never passed over, and what comes out is always encoded anew, upright, in sRGB and without any
metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from image_worker.images import colour, encoding, geometry, memory
from image_worker.images.encoding import Rendered
from image_worker.images.errors import encoding as encoding_errors
from image_worker.images.errors import too_large
from image_worker.images.sources import FORMATS, identify
from offload_contracts.images import Fit, ImageFormat
from offload_core.errors import PermanentError

if TYPE_CHECKING:
    from PIL import Image

    from image_worker.images.geometry import Box
    from image_worker.images.sources import Source

__all__ = ["FORMATS", "Limits", "Rendered", "resize"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What an image may be, as its header declares it, and what its result may be."""

    pixels: int = 50_000_000  # all frames together; imgproxy's default
    side_pixels: int = 16_384
    # The pixels of all frames are the limit that counts; this one bounds what each frame costs beside its pixels.
    frames: int = 10_000
    memory_bytes: int = 2_147_483_648


def resize(
    data: bytes,
    *,
    width: int | None,
    height: int | None,
    fit: Fit = Fit.CONTAIN,
    target: ImageFormat | None = None,
    animated: bool = False,
    limits: Limits | None = None,
) -> Rendered:
    """Return the image within a box.

    With `contain` the image is never enlarged; with one side given the other follows in proportion; with none only the
    encoding changes. `target` is the format of the result (the source's own by default). `animated` keeps all frames
    of an animation: in GIF, WebP or PNG; any other result is refused.

    Raises:
        PermanentError: ``image.not_an_image``, ``image.format_unsupported``, ``image.truncated``, ``image.broken``,
            ``image.too_large``, ``image.too_many_frames``, ``image.animation_unsupported``,
            ``image.format_unavailable``, ``image.not_encodable``.

    """
    limits = limits or Limits()
    try:
        return _resize(data, width, height, fit, target, animated=animated, limits=limits)
    except MemoryError:
        raise too_large("the image needs more memory than there is") from None


def _resize(
    data: bytes,
    width: int | None,
    height: int | None,
    fit: Fit,
    target: ImageFormat | None,
    *,
    animated: bool,
    limits: Limits,
) -> Rendered:
    source = identify(data)
    result = target or source.format
    if result not in FORMATS:
        raise PermanentError("image.format_unavailable", f"{result.upper()} cannot be written on this worker")
    keeps_frames = animated and source.is_animated
    if keeps_frames and result not in encoding.ANIMATED:
        raise PermanentError("image.animation_unsupported", f"an animation cannot be written as {result.upper()}")
    frames = source.frame_count if keeps_frames else 1
    if frames > limits.frames:
        raise PermanentError("image.too_many_frames", f"the image has more than {limits.frames:,} frames")
    _check("the image", source.size, frames, limits)
    is_sideways = geometry.is_sideways(source.orientation)
    box = geometry.Box.of(source.size[::-1] if is_sideways else source.size, width, height, fit)
    _check("the result", box.size, frames, limits)
    encoding.check_size(box.size, result)
    stored = box.turned() if is_sideways else box
    needs = memory.predict(source, stored, result, frames=frames, input_bytes=len(data))
    if needs.frugal > limits.memory_bytes:
        raise too_large(f"the image would take {needs.frugal:,} bytes of memory, and may have {limits.memory_bytes:,}")
    if keeps_frames:
        return _animation(source, stored, result)
    # Nothing here holds the source's pixels while its result is encoded.
    image = _made(source.still(stored.least_source()), source, stored, result)
    return encoding.encode(image, result, frugal=needs.usual > limits.memory_bytes)


def _check(what: str, size: tuple[int, int], frames: int, limits: Limits) -> None:
    if max(size) > limits.side_pixels or size[0] * size[1] * frames > limits.pixels:
        raise too_large(f"{what} may have {limits.pixels:,} pixels and sides of {limits.side_pixels:,} at most")


def _made(image: Image.Image, source: Source, box: Box, target: ImageFormat) -> Image.Image:
    """Return a picture in its final size and colours, upright."""
    with encoding_errors():
        if image.mode in {"1", "P"} and box.keeps(image.size) and target in {ImageFormat.PNG, ImageFormat.GIF}:
            # Few colours stay few: mixed into RGB the file would grow.
            if image.mode == "P":
                image = colour.palette_to_srgb(image, source.profile, source.gamma)
            return geometry.upright(image, source.orientation)
        image = box.apply(colour.mixable(image))
        return geometry.upright(colour.to_srgb(image, source.profile, source.gamma), source.orientation)


def _animation(source: Source, box: Box, target: ImageFormat) -> Rendered:
    made, durations_ms = [], []
    for frame in source.frames():
        made.append(_made(frame.image, source, box, target))
        durations_ms.append(frame.duration_ms)
    return encoding.encode_animation(made, durations_ms, source.plays, target)
