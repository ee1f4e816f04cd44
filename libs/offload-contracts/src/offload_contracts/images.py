"""Images: what is asked of one, and the files that come out."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from offload_contracts.contract import Message, Queue, Result, TaskContract

# The longest side that we make. WebP ends at 16,383; imgproxy and Cloudflare stop near there too.
MAX_SIDE_PIXELS = 16_383

Side = Annotated[int, Field(ge=1, le=MAX_SIDE_PIXELS)]


class Fit(StrEnum):
    """How an image meets a width and a height."""

    CONTAIN = "contain"  # the whole image, inside of the box, its sides in proportion
    COVER = "cover"  # the box filled, what stands over cut off evenly
    FILL = "fill"  # the box filled, the sides bent to it


class ImageFormat(StrEnum):
    """The formats that we write."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"
    AVIF = "avif"

    @classmethod
    def _missing_(cls, value: object) -> ImageFormat | None:
        """Take the name that everybody gives to JPEG files."""
        return cls.JPEG if value == "jpg" else None


class Output(Result):
    """One file that a task has made. `step` is its label: what the step that made it calls it."""

    name: str
    step: str
    key: str
    media_type: str
    size_bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    pages: int | None = None


class Outputs(Result):
    """All files that a chain has made so far: each step adds its own."""

    outputs: tuple[Output, ...] = ()

    def plus(self, output: Output) -> Outputs:
        """Return these outputs and one more; one of the same step is replaced."""
        return Outputs(outputs=(*(one for one in self.outputs if one.step != output.step), output))


class ResizeImage(Message):
    """Make one image of another: turned upright, in sRGB, without metadata, within a box.

    Without a source, of the newest image that the steps before have made.
    """

    source: str | None = None
    width: Side | None = None
    height: Side | None = None
    fit: Fit = Fit.CONTAIN
    format: ImageFormat | None = None
    animated: bool = False


class ThumbnailImage(Message):
    """Make a small image of the source: the whole of it, in proportion, never enlarged.

    Without a source, of the newest image that the steps before have made.
    """

    longest_side: Side
    source: str | None = None
    format: ImageFormat | None = None


RESIZE_IMAGE = TaskContract("image.resize.v1", Queue.IMAGES, ResizeImage, Outputs)
THUMBNAIL_IMAGE = TaskContract("image.thumbnail.v1", Queue.IMAGES, ThumbnailImage, Outputs)
