"""Images, as pure functions from bytes to bytes.

Untrusted bytes come in: the formats are an allow-list, the limits are checked on the header before a pixel is decoded,
and what comes out is always encoded anew, upright, in sRGB and without any metadata.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageCms, ImageSequence, UnidentifiedImageError, features

from offload_contracts import Fit, ImageFormat
from offload_runtime.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable

# Pillow only warns between one and two times its limit; for us the limit is the limit.
warnings.simplefilter("error", Image.DecompressionBombWarning)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", *(("AVIF",) if features.check("avif") else ()))
ANIMATED = frozenset({ImageFormat.GIF, ImageFormat.WEBP})

MEDIA_TYPES = {
    ImageFormat.JPEG: "image/jpeg",
    ImageFormat.PNG: "image/png",
    ImageFormat.WEBP: "image/webp",
    ImageFormat.GIF: "image/gif",
    ImageFormat.AVIF: "image/avif",
}
EXTENSIONS = {ImageFormat.JPEG: "jpg"}

_ORIENTATION = 0x0112
# EXIF 2.3, table 6: how to turn what the camera wrote.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = frozenset({5, 6, 7, 8})
_SAVE: dict[ImageFormat, dict[str, object]] = {
    # 85: the knee of the curve; above it files grow faster than eyes can tell. 4:2:0 is Pillow's default at 85.
    ImageFormat.JPEG: {"quality": 85},
    # 6 is zlib's own default; 9 costs three times the time for about 1 % of the size.
    ImageFormat.PNG: {"compress_level": 6},
    ImageFormat.WEBP: {"quality": 80, "method": 4},
    ImageFormat.GIF: {},
    ImageFormat.AVIF: {"quality": 65, "speed": 8},
}
_SRGB = ImageCms.createProfile("sRGB")
# Where draft() or the resizing needs more than the target, so that its rounding is not seen.
_DRAFT_MARGIN = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What an image may be. All are of the image as its header declares it."""

    pixels: int = 50_000_000  # all frames together; imgproxy's default
    side_pixels: int = 16_384
    frames: int = 100


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
    of a GIF or WebP where the result can have them.

    Raises:
        PermanentError: ``image.not_an_image``, ``image.truncated``, ``image.too_large``, ``image.too_many_frames``,
            ``image.format_unavailable``, ``image.broken``.

    """
    try:
        return _resize(data, width, height, fit, target, animated=animated, limits=limits or Limits())
    except UnidentifiedImageError:
        raise PermanentError("image.not_an_image", "the file is not an image of a format that we read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PermanentError("image.too_large", "the image has more pixels than we take") from None
    except MemoryError:
        raise PermanentError("image.too_large", "the image needs more memory than we give") from None
    except OSError as error:
        if "truncated" in str(error) or "broken data stream" in str(error):
            raise PermanentError("image.truncated", "the image ends too early") from None
        raise PermanentError("image.broken", "the image cannot be decoded") from None
    except (ValueError, SyntaxError, NotImplementedError, EOFError, IndexError, OverflowError, ImageCms.PyCMSError):
        # All of these have been seen from Pillow's decoders on malformed files.
        raise PermanentError("image.broken", "the image cannot be decoded") from None


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
    with Image.open(io.BytesIO(data), formats=FORMATS) as source:
        result_format = target or ImageFormat((source.format or "JPEG").lower())
        if result_format is ImageFormat.AVIF and "AVIF" not in FORMATS:
            raise PermanentError("image.format_unavailable", "AVIF is not available on this worker")
        keep_frames = animated and result_format in ANIMATED and getattr(source, "is_animated", False)
        _check(source, limits, frames=getattr(source, "n_frames", 1) if keep_frames else 1)
        orientation = _orientation(source)
        upright = source.size if orientation not in _LYING else source.size[::-1]
        box = _Box.of(upright, width, height, fit)
        lying = box if orientation not in _LYING else box.turned()

        def make(frame: Image.Image) -> Image.Image:
            small = _to_srgb(lying.apply(_resizable(frame)), source.info.get("icc_profile"))
            return small.transpose(_TURNS[orientation]) if orientation in _TURNS else small

        if keep_frames:
            return _animation(source, make, result_format, box)
        if source.format == "JPEG":
            # The decoder itself makes the image smaller by 2, 4 or 8: most of the pixels are never decoded.
            scale = max(lying.size[0] / lying.crop_share[0], 1), max(lying.size[1] / lying.crop_share[1], 1)
            source.draft(source.mode, (round(scale[0] * _DRAFT_MARGIN), round(scale[1] * _DRAFT_MARGIN)))
        image = _encodable(make(source), result_format)
        return _encode(image, result_format)


@dataclass(frozen=True, slots=True)
class _Box:
    """Which part of the source goes into which size."""

    size: tuple[int, int]
    # The share of the source's width and height that is kept; what is cut off is cut evenly on both sides.
    crop_share: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, source: tuple[int, int], width: int | None, height: int | None, fit: Fit) -> _Box:
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

    def turned(self) -> _Box:
        return _Box(self.size[::-1], self.crop_share[::-1])

    def apply(self, image: Image.Image) -> Image.Image:
        across, down = image.size
        cut = across * (1 - self.crop_share[0]) / 2, down * (1 - self.crop_share[1]) / 2
        area = cut[0], cut[1], across - cut[0], down - cut[1]
        if self.size == image.size and self.crop_share == (1.0, 1.0):
            return image.copy()
        return image.resize(self.size, Image.Resampling.LANCZOS, box=area, reducing_gap=2.0)


def _check(source: Image.Image, limits: Limits, *, frames: int) -> None:
    across, down = source.size
    if frames > limits.frames:
        raise PermanentError("image.too_many_frames", f"the image has more than {limits.frames} frames")
    if max(across, down) > limits.side_pixels or across * down * frames > limits.pixels:
        raise PermanentError(
            "image.too_large",
            f"the image may have {limits.pixels:,} pixels and sides of {limits.side_pixels:,} at most",
        )


def _orientation(source: Image.Image) -> int:
    try:
        value = source.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 -- broken EXIF raises anything; the image itself may be sound
        return 1
    return value if value in _TURNS else 1


def _resizable(frame: Image.Image) -> Image.Image:
    """Return the frame in a mode in which neighbouring pixels can be mixed, alpha premultiplied."""
    mode = frame.mode
    if mode in {"I;16", "I;16B", "I;16L", "I"}:
        # 16 bits hold 0 to 65,535; convert() alone would cut at 255.
        return frame.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if mode in {"P", "PA", "LA", "RGBA"} or "transparency" in frame.info:
        rgba = frame.convert("RGBA")
        return rgba.convert("RGBa") if rgba.getchannel("A").getextrema() != (255, 255) else rgba.convert("RGB")
    if mode in {"L", "RGB", "CMYK"}:
        return frame
    return frame.convert("L" if mode == "1" else "RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return the image in RGB, RGBA or L, its colours those that the profile meant."""
    if image.mode == "RGBa":
        image = image.convert("RGBA")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            alpha = image.getchannel("A") if image.mode == "RGBA" else None
            colours = image.convert("RGB") if alpha else image
            converted = ImageCms.profileToProfile(colours, source, _SRGB, outputMode="RGB")
            if converted is not None:
                image = converted
                if alpha is not None:
                    image.putalpha(alpha)
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a profile that does not fit its image says nothing about the pixels
    if image.mode not in {"L", "RGB", "RGBA"}:
        image = image.convert("RGB")
    image.info = {}
    return image


def _encodable(image: Image.Image, target: ImageFormat) -> Image.Image:
    if target is ImageFormat.JPEG and image.mode == "RGBA":
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image.getchannel("A"))
        return ground
    return image


def _encode(image: Image.Image, target: ImageFormat) -> Rendered:
    buffer = io.BytesIO()
    image.save(buffer, format=target.name, **_SAVE[target])
    return Rendered(buffer.getvalue(), target, *image.size)


def _animation(
    source: Image.Image, make: Callable[[Image.Image], Image.Image], target: ImageFormat, box: _Box
) -> Rendered:
    loop = source.info.get("loop")
    frames, durations = [], []
    for frame in ImageSequence.Iterator(source):
        frame.load()  # of a WebP the duration is known only then
        durations.append(frame.info.get("duration", 100))
        frames.append(make(frame))
    buffer = io.BytesIO()
    repeat = {} if loop is None and target is ImageFormat.GIF else {"loop": loop or 0}
    frames[0].save(
        buffer,
        format=target.name,
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        **repeat,
        **_SAVE[target],
    )
    return Rendered(buffer.getvalue(), target, *box.size)
