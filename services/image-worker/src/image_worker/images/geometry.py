"""Sizes: which part of the source goes into which box, and how the camera was held."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from PIL import Image

from offload_contracts.images import Fit

# With `reducing_gap` 3 Pillow's resize cannot be told from one without it, and is faster on large ratios.
_REDUCING_GAP = 3.0

# EXIF 2.3, table 6: the turn that undoes each orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})
_ORIENTATION_TAG = 0x0112
# TIFF 6.0, section 2, and EXIF: the integer types, by their number.
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}


@dataclass(frozen=True, slots=True)
class Box:
    """Which part of the source goes into which size, both as the pixels are stored."""

    size: tuple[int, int]
    # The share of the source's width and height that is kept; the rest is cut evenly on both sides.
    crop_share: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, source: tuple[int, int], width: int | None, height: int | None, fit: Fit) -> Box:
        """Return the box of a source that is shown upright. `contain` never enlarges."""
        across, down = source
        if width is None and height is None:
            return cls(source)
        if width is None or height is None or fit is Fit.CONTAIN:
            ratio = min((width or across * 10**6) / across, (height or down * 10**6) / down, 1.0)
            return cls((max(round(across * ratio), 1), max(round(down * ratio), 1)))
        if fit is Fit.FILL:
            return cls((width, height))
        ratio = max(width / across, height / down)
        return cls((width, height), (width / (across * ratio), height / (down * ratio)))

    def turned(self) -> Box:
        """Return the same box for pixels that are stored sideways."""
        return Box(self.size[::-1], self.crop_share[::-1])

    def keeps(self, size: tuple[int, int]) -> bool:
        """Return whether an image of this size comes out as it is."""
        return self.size == size and self.crop_share == (1.0, 1.0)

    def least_source(self) -> tuple[float, float]:
        """Return the source's size at which a pixel of the result is a pixel of the source."""
        return self.size[0] / self.crop_share[0], self.size[1] / self.crop_share[1]

    def apply(self, image: Image.Image) -> Image.Image:
        """Cut and resize. Alpha must be premultiplied."""
        if self.keeps(image.size):
            return image
        across, down = image.size
        cut = across * (1 - self.crop_share[0]) / 2, down * (1 - self.crop_share[1]) / 2
        area = cut[0], cut[1], across - cut[0], down - cut[1]
        return image.resize(self.size, Image.Resampling.LANCZOS, box=area, reducing_gap=_REDUCING_GAP)


def is_sideways(orientation: int) -> bool:
    """Return whether the stored width is the shown height."""
    return orientation in _SIDEWAYS


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image as it is to be shown."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def orientation_of(exif: bytes | None) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none, or none that makes sense.

    Only EXIF turns an image, as in browsers; XMP does not. Every integer type of TIFF is read.
    """
    tiff = (exif or b"").removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(count):
            at = directory + 2 + 12 * entry
            tag, kind, values = struct.unpack_from(f"{order}HHI", tiff, at)
            if tag == _ORIENTATION_TAG:
                if kind not in _INTEGERS or values < 1:
                    return 1
                (value,) = struct.unpack_from(order + _INTEGERS[kind], tiff, at + 8)
                return value if value in _TURNS else 1
    except struct.error:
        # Broken EXIF says nothing about the pixels.
        return 1
    return 1
