"""Writing images, always anew, without metadata."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from image_worker.images.errors import encoding, too_large
from offload_contracts.images import ImageFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

MEDIA_TYPES = {
    ImageFormat.JPEG: "image/jpeg",
    ImageFormat.PNG: "image/png",
    ImageFormat.WEBP: "image/webp",
    ImageFormat.GIF: "image/gif",
    ImageFormat.AVIF: "image/avif",
}
EXTENSIONS = {ImageFormat.JPEG: "jpg"}
# The formats that can hold all frames, how long each is shown, and how often all of them.
ANIMATED = frozenset({ImageFormat.GIF, ImageFormat.WEBP, ImageFormat.PNG})
# The longest side that a format can hold; the other formats can hold more than we take.
_LONGEST_SIDE = {ImageFormat.WEBP: 16_383}
_OPTIONS: dict[ImageFormat, dict[str, Any]] = {
    # 85: the knee of the curve; above it files grow faster than eyes can tell. 4:2:0 is Pillow's default at 85.
    ImageFormat.JPEG: {"quality": 85},
    # 6 is zlib's own default; 9 costs three times the time for about 1 % of the size.
    ImageFormat.PNG: {"compress_level": 6},
    ImageFormat.WEBP: {"quality": 80, "method": 4},
    ImageFormat.GIF: {},
    # One thread: a pool has a process for each core already.
    ImageFormat.AVIF: {"quality": 65, "speed": 8, "max_threads": 1},
}
# WebP with transparency takes 26 bytes a pixel with method 0 where it takes 43 with 4; files are a fifth larger.
_FRUGAL = {ImageFormat.WEBP: {"method": 0}}
_HALF = 128


@dataclass(frozen=True, slots=True)
class Rendered:
    """One encoded image."""

    data: bytes
    format: ImageFormat
    width: int
    height: int

    @property
    def media_type(self) -> str:
        """The media type, from the format that we encoded."""
        return MEDIA_TYPES[self.format]

    @property
    def extension(self) -> str:
        """The file name's extension."""
        return EXTENSIONS.get(self.format, self.format.value)


def check_size(size: tuple[int, int], target: ImageFormat) -> None:
    """Refuse a result that its format cannot hold.

    Raises:
        PermanentError: ``image.too_large``.

    """
    longest = _LONGEST_SIDE.get(target)
    if longest is not None and max(size) > longest:
        raise too_large(f"{target.value} can hold sides of {longest:,} pixels at most")


def encode(image: Image.Image, target: ImageFormat, *, frugal: bool = False) -> Rendered:
    """Return one picture, encoded. `image` is in 1, P, L, LA, RGB or RGBA."""
    with encoding():
        image, more = _prepared(image, target)
        buffer = io.BytesIO()
        options = _OPTIONS[target] | (_FRUGAL.get(target, {}) if frugal else {}) | more
        image.save(buffer, format=target.name, **options)
        return Rendered(buffer.getvalue(), target, *image.size)


def encode_animation(
    frames: Sequence[Image.Image], durations_ms: Sequence[int], plays: int, target: ImageFormat
) -> Rendered:
    """Return an animation that is shown `plays` times in all, 0 for ever."""
    with encoding():
        has_alpha = any(frame.mode in {"LA", "RGBA"} for frame in frames)
        frames = [frame.convert("RGBA" if has_alpha else "RGB") for frame in frames]
        options: dict[str, Any] = dict(_OPTIONS[target])
        if target is ImageFormat.GIF:
            prepared = [_prepared(frame, target) for frame in frames]
            frames = [frame for frame, _ in prepared]
            # A GIF's count is of repetitions, and without one it is shown once.
            options |= {} if plays == 1 else {"loop": plays - 1 if plays else 0}
            # What is transparent must not show the frame before.
            options |= {"disposal": 2, "transparency": 255, "optimize": False} if has_alpha else {}
        else:
            options["loop"] = plays
        if target is ImageFormat.PNG:
            options |= {"blend": 0, "default_image": False}
        buffer = io.BytesIO()
        frames[0].save(
            buffer, format=target.name, save_all=True, append_images=frames[1:], duration=list(durations_ms), **options
        )
        made = buffer.getvalue()
        if target is ImageFormat.WEBP and has_alpha:
            made = _with_alpha_flag(made)
        return Rendered(made, target, *frames[0].size)


def _with_alpha_flag(webp: bytes) -> bytes:
    """Say in a WebP's header that it is transparent somewhere.

    libwebp says it only where a frame's own pixels are. What is cleared between frames would be black to a viewer that
    believes the header.
    """
    flags = 20  # of the VP8X chunk: RIFF, size, WEBP, VP8X and its size come before (WebP container specification)
    if webp[12:16] != b"VP8X":
        return webp
    return webp[:flags] + bytes([webp[flags] | 0x10]) + webp[flags + 1 :]


def _prepared(image: Image.Image, target: ImageFormat) -> tuple[Image.Image, dict[str, Any]]:
    """Return the picture in a mode that its format has, and options for its encoder."""
    if target is ImageFormat.PNG:
        # A palette is small already, and gets the slow search for the smallest file.
        return image, {"optimize": True} if image.mode in {"1", "P"} else {}
    if target is ImageFormat.GIF:
        return _with_palette(image)
    if image.mode in {"1", "P"}:
        image = image.convert("L" if image.mode == "1" else "RGBA" if image.has_transparency_data else "RGB")
    if target is ImageFormat.JPEG:
        return (_on_white(image) if image.mode in {"LA", "RGBA"} else image), {}
    return image.convert({"LA": "RGBA", "L": "RGB"}.get(image.mode, image.mode)), {}


def _on_white(image: Image.Image) -> Image.Image:
    ground = Image.new(image.mode[:-1], image.size, "white")
    ground.paste(image.convert(image.mode[:-1]), mask=image.getchannel("A"))
    return ground


def _with_palette(image: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    """Return 256 colours; with transparency 255, and a pixel is clear below half of full alpha, without dithering."""
    if image.mode in {"1", "P", "L"}:
        return image, {}
    if image.mode not in {"LA", "RGBA"}:
        return image.quantize(256), {}
    colours = image.convert("RGB").quantize(255)
    clear = image.getchannel("A").point([255] * _HALF + [0] * (256 - _HALF))
    colours.paste(255, mask=clear)
    return colours, {"transparency": 255, "optimize": False}
