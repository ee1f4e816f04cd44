"""WebP and AVIF, whose libraries check what they decode: Pillow's own plugins."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING

from PIL import AvifImagePlugin, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.WebPImagePlugin import WebPImageFile

from image_worker.images.errors import decoding
from image_worker.images.geometry import orientation_of
from image_worker.images.sources import Frame, Source, pixels_of
from offload_contracts.images import ImageFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL.ImageFile import ImageFile

# A pool has a process for each core already.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def read_webp(data: bytes) -> Source:
    """Return what a WebP holds."""
    return _read(data, ImageFormat.WEBP, WebPImageFile)


def read_avif(data: bytes) -> Source:
    """Return what an AVIF holds. Its own turns (irot, imir) come as an EXIF orientation."""
    return _read(data, ImageFormat.AVIF, AvifImageFile)


def _read(data: bytes, name: ImageFormat, plugin: Callable[[io.BytesIO], ImageFile]) -> Source:
    with decoding():
        header = plugin(io.BytesIO(data))
    size = header.size
    return Source(
        name,
        size,
        has_alpha=header.mode == "RGBA",
        still=partial(_decode, data, plugin),
        frames=partial(_frames, data, plugin),
        decoded_size=lambda _: size,
        frame_count=getattr(header, "n_frames", 1),
        plays=header.info.get("loop", 0),
        orientation=orientation_of(header.info.get("exif")),
        profile=header.info.get("icc_profile"),
    )


def _decode(data: bytes, plugin: Callable[[io.BytesIO], ImageFile], _: tuple[float, float]) -> Image.Image:
    with decoding():
        return pixels_of(plugin(io.BytesIO(data)))


def _frames(data: bytes, plugin: Callable[[io.BytesIO], ImageFile]) -> Iterator[Frame]:
    with decoding():
        image = plugin(io.BytesIO(data))
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            yield Frame(image.copy(), round(image.info.get("duration", 0)))
