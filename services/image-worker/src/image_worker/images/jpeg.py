"""JPEG, decoded by libjpeg-turbo with its warnings taken as errors.

Pillow drops those warnings, so that half a photo would come out grey and as a success. What is tolerated, because every
viewer shows it and no pixel is missing: an end marker that is missing or late, bytes after the end, further pictures
behind the first (MPO), and an unknown version of JFIF or of Adobe's marker.
"""

from __future__ import annotations

import io
import re
from functools import partial

import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from image_worker.images.errors import decoding
from image_worker.images.geometry import orientation_of
from image_worker.images.sources import Source
from offload_contracts.images import ImageFormat

_END = b"\xff\xd9"
# libjpeg's warnings that leave every pixel in its place.
_HARMLESS = re.compile(r"extraneous bytes before marker 0xd9|unknown JFIF revision|Unknown Adobe color transform")
# The decoder halves the image as long as this many of its pixels make one of the result's. Below 2 its rounding is
# seen (up to 26 dB worse on detailed photos); libvips' thumbnail keeps 2 as well.
DRAFT_MARGIN = 2.0
_DENOMINATORS = (8, 4, 2)
# What libjpeg-turbo writes for each of Pillow's modes, and how Pillow reads that. Adobe's CMYK is inverted.
_LAYOUTS = {"L": ("GRAY", "L"), "RGB": ("RGBX", "RGBX"), "CMYK": ("CMYK", "CMYK;I")}


def read(data: bytes) -> Source:
    """Return what a JPEG holds. Of a multi-picture file it is the first picture, as in every browser."""
    with decoding():
        header = JpegImageFile(io.BytesIO(data))
    size, mode = header.size, header.mode
    return Source(
        ImageFormat.JPEG,
        size,
        has_alpha=False,
        still=partial(_decode, data, size, mode),
        decoded_size=partial(_decoded_size, size),
        orientation=orientation_of(header.info.get("exif")),
        profile=header.info.get("icc_profile"),
    )


def _decoded_size(size: tuple[int, int], wanted: tuple[float, float]) -> tuple[int, int]:
    for denominator in _DENOMINATORS:
        scaled = -(-size[0] // denominator), -(-size[1] // denominator)
        if scaled[0] >= wanted[0] * DRAFT_MARGIN and scaled[1] >= wanted[1] * DRAFT_MARGIN:
            return scaled
    return size


def _decode(data: bytes, size: tuple[int, int], mode: str, wanted: tuple[float, float]) -> Image.Image:
    across, down = _decoded_size(size, wanted)
    layout, raw = _LAYOUTS[mode]

    def decode(content: bytes, *, strict: bool) -> Image.Image:
        pixels = simplejpeg.decode_jpeg(content, layout, min_height=down, min_width=across, strict=strict)
        height, width = pixels.shape[:2]
        return Image.frombuffer(mode, (width, height), pixels, "raw", raw, 0, 1)

    with decoding():
        # Bytes behind the end marker do no harm, so that a second one never does either.
        complete = data if data.endswith(_END) else data + _END
        try:
            return decode(complete, strict=True)
        except ValueError as error:
            if "premature end" in str(error).lower():
                raise ValueError("truncated") from error
            if _HARMLESS.search(str(error)) is None:
                raise
        return decode(complete, strict=False)
