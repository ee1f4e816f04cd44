"""What a file holds, before a pixel of it is decoded; one module for each format knows how to decode it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import features

from offload_contracts import ImageFormat
from offload_contracts.signatures import HEAD_BYTES, image_format
from offload_runtime.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image

FORMATS = frozenset({*ImageFormat} - (set() if features.check("avif") else {ImageFormat.AVIF}))


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of an animation as a viewer shows it, on the whole canvas."""

    image: Image.Image
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Source:
    """A file's header, and what decodes it."""

    format: ImageFormat
    size: tuple[int, int]
    # Bytes that one pixel takes while it is decoded, and whether it may be transparent: see `memory`.
    has_alpha: bool
    # Returns the picture, in any size from this one up: a JPEG is decoded smaller where that loses nothing.
    still: Callable[[tuple[float, float]], Image.Image]
    frames: Callable[[], Iterator[Frame]]
    # The size in which `still` decodes for a size that is asked for.
    decoded_size: Callable[[tuple[float, float]], tuple[int, int]]
    frame_count: int = 1
    # How often an animation is shown in all; 0: for ever.
    plays: int = 0
    orientation: int = 1
    profile: bytes | None = None
    gamma: float | None = None

    @property
    def is_animated(self) -> bool:
        """Whether there is more than one picture to show."""
        return self.frame_count > 1


def identify(data: bytes) -> Source:
    """Return what the file holds, by its own first bytes.

    Raises:
        PermanentError: ``image.not_an_image``, ``image.format_unsupported``, ``image.truncated``, ``image.broken``.

    """
    from image_worker.images import gif, jpeg, pillow, png

    name = image_format(data[:HEAD_BYTES])
    if name is None:
        raise PermanentError("image.not_an_image", "the file is not an image of a format that we read")
    if name not in FORMATS:
        raise PermanentError("image.format_unsupported", f"{name.upper()} images are not supported here")
    readers = {
        ImageFormat.JPEG: jpeg.read,
        ImageFormat.PNG: png.read,
        ImageFormat.GIF: gif.read,
        ImageFormat.WEBP: pillow.read_webp,
        ImageFormat.AVIF: pillow.read_avif,
    }
    return readers[ImageFormat(name)](data)
