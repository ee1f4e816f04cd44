"""What a file holds, before a pixel of it is decoded; one module for each format knows how to decode it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, features

from offload_contracts.images import ImageFormat
from offload_contracts.signatures import HEAD_BYTES, image_format
from offload_core.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL.ImageFile import ImageFile

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
    # Whether it may be transparent somewhere: that takes more memory.
    has_alpha: bool
    # Returns the picture, in any size from this one up: a JPEG is decoded smaller where that loses nothing.
    still: Callable[[tuple[float, float]], Image.Image]
    # The size in which `still` decodes for a size that is asked for.
    decoded_size: Callable[[tuple[float, float]], tuple[int, int]]
    # Yields an animation's pictures; of a format without animations it is never asked.
    frames: Callable[[], Iterator[Frame]] = lambda: iter(())
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


def pixels_of(file: ImageFile) -> Image.Image:
    """Return the picture of an opened file, without the file and the decoder that it came by."""
    file.load()
    return Image.Image._new(file, file.im)  # noqa: SLF001 -- Pillow's own copies are made by it


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
