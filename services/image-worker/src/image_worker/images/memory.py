"""How much memory an image will need, from its header alone: more than there is is refused before it is decoded.

The numbers are peaks of the resident memory, measured on images of 3 to 48 megapixels (Pillow 13, libwebp 1.6, libavif
1.4 with aom, one thread); a test holds the prediction against what a process really takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from offload_contracts.images import ImageFormat

if TYPE_CHECKING:
    from image_worker.images.geometry import Box
    from image_worker.images.sources import Source

# The interpreter, Pillow and numpy: 75 to 82 MiB, because kernels keep more or less of their files in memory.
BASE_BYTES = 88 * 1024 * 1024
# Bytes a pixel while a format is decoded, the picture itself (4) included.
_DECODING = {
    ImageFormat.JPEG: 8.5,
    ImageFormat.PNG: 12.5,
    ImageFormat.GIF: 10.0,
    ImageFormat.WEBP: 18.0,
    ImageFormat.AVIF: 14.0,
}
# Bytes a pixel that an encoder takes beside the picture: opaque, and with transparency.
_ENCODING = {
    ImageFormat.JPEG: (1.0, 5.0),
    ImageFormat.PNG: (5.0, 5.0),
    ImageFormat.GIF: (14.0, 20.0),
    ImageFormat.WEBP: (8.0, 43.0),
    ImageFormat.AVIF: (27.0, 31.0),
}
# The same for WebP with its fastest method.
_FAST_WEBP = (8.0, 26.0)


@dataclass(frozen=True, slots=True)
class Needs:
    """What one job will take at its peak, in bytes."""

    usual: int
    # With the encoder told to save memory; the same where it cannot.
    frugal: int


def predict(source: Source, box: Box, target: ImageFormat, *, frames: int, input_bytes: int) -> Needs:
    """Return what it takes to make of a source what fits a box."""
    across, down = source.decoded_size(box.least_source())
    decoded, made = across * down, box.size[0] * box.size[1]
    decode = decoded * _DECODING[source.format]
    is_kept = box.keeps((across, down))
    # The decoded picture, its copy in a mode that can be mixed, what the first of two passes leaves, the result.
    mix = decoded * (12 if source.has_alpha else 4) + (0 if is_kept else 4 * box.size[0] * down + 4 * made)
    colours = made * (4 + 12 * (source.profile is not None or source.has_alpha) + 4 * (source.orientation > 1))
    base = BASE_BYTES + 4 * input_bytes
    if frames > 1:
        # All results are held until they are encoded, and two canvases beside them.
        base += frames * made * 12 + decoded * 12

    def peak(encoding: tuple[float, float]) -> int:
        return round(base + max(decode, mix, colours, made * (4 + encoding[source.has_alpha])))

    usual = peak(_ENCODING[target])
    return Needs(usual, peak(_FAST_WEBP) if target is ImageFormat.WEBP else usual)
