"""PNG: the chunks are checked and sorted here, the pixels decoded by Pillow.

Pillow checks no checksum of the pixel data, and gives up on large texts and profiles. So it gets a file of those chunks
alone that make the pixels, each with its checksum verified; all others may be broken, huge or late. Tolerated as well:
a missing end chunk, and anything behind it.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from image_worker.images.errors import broken, decoding
from image_worker.images.geometry import orientation_of
from image_worker.images.sources import Frame, Source, pixels_of
from offload_contracts.images import ImageFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The chunks that make the pixels; acTL, fcTL and fdAT are an animation's.
_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT"})
_PIXEL_DATA = frozenset({b"IDAT", b"fdAT"})
_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
# No profile for displays or printers comes near; the largest of the ICC's own is 3.5 MB.
_MAX_PROFILE_BYTES = 8 * 1024 * 1024
_GREY, _RGB, _PALETTE = 0, 2, 3


@dataclass(slots=True)
class _Chunks:
    """A PNG's chunks, sorted."""

    pixels: list[bytes] = field(default_factory=lambda: [_SIGNATURE])
    depth: int = 8
    colour_type: int = _RGB
    transparent: bytes | None = None
    profile: bytes | None = None
    exif: bytes | None = None
    gamma: float | None = None
    has_srgb: bool = False
    # What is wrong with a chunk that makes pixels: said when they are wanted, after the limits have had their say.
    damage: str | None = None


def read(data: bytes) -> Source:
    """Return what a PNG holds."""
    chunks = _sorted(data)
    content = b"".join([*chunks.pixels, _END])
    with decoding():
        header = PngImageFile(io.BytesIO(content))
    # Pillow counts a still picture that is no part of the animation as its first frame.
    extra = 1 if header.info.get("default_image") else 0
    is_animated = getattr(header, "is_animated", False)
    size = header.size
    return Source(
        ImageFormat.PNG,
        size,
        has_alpha=chunks.transparent is not None or chunks.colour_type > _PALETTE,
        still=partial(_decode, content, chunks),
        frames=partial(_frames, content, chunks, extra),
        decoded_size=lambda _: size,
        frame_count=header.n_frames - extra if is_animated else 1,
        plays=header.info.get("loop", 0),
        orientation=orientation_of(chunks.exif),
        profile=chunks.profile,
        gamma=None if chunks.has_srgb or chunks.profile else chunks.gamma,
    )


def _sorted(data: bytes) -> _Chunks:
    chunks = _Chunks()
    at = len(_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        content, checksum = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        is_complete = len(checksum) == 4  # noqa: PLR2004 -- a CRC-32
        if kind in _PIXELS:
            if is_complete and int.from_bytes(checksum, "big") != zlib.crc32(content, zlib.crc32(kind)):
                chunks.damage = f"the checksum of a {kind.decode()} chunk is wrong"
            if is_complete or kind in _PIXEL_DATA:
                # What is cut off at the end is missing pixels or only a checksum: the decoder finds out which.
                chunks.pixels.append(_chunk(kind, content))
        if is_complete:
            _note(chunks, kind, content)
        if kind == b"IEND":
            break
        at += 12 + length
    return chunks


def _note(chunks: _Chunks, kind: bytes, content: bytes) -> None:
    if kind == b"IHDR" and len(content) == 13:  # noqa: PLR2004 -- PNG 1.2, section 11.2.2
        chunks.depth, chunks.colour_type = content[8], content[9]
    elif kind == b"tRNS":
        chunks.transparent = content
    elif kind == b"eXIf":
        chunks.exif = content
    elif kind == b"sRGB":
        chunks.has_srgb = True
    elif kind == b"gAMA" and len(content) == 4:  # noqa: PLR2004 -- section 11.3.3.2
        chunks.gamma = int.from_bytes(content, "big") / 100_000
    elif kind == b"iCCP":
        chunks.profile = _inflated(content.partition(b"\0")[2][1:])


def _inflated(compressed: bytes) -> bytes | None:
    """Return a profile; None where it is broken, or larger than profiles are."""
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(compressed, _MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if inflater.eof else None


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def _decode(content: bytes, chunks: _Chunks, _: tuple[float, float]) -> Image.Image:
    _refuse_damage(chunks)
    with decoding():
        return _with_alpha(pixels_of(PngImageFile(io.BytesIO(content))), chunks)


def _frames(content: bytes, chunks: _Chunks, extra: int) -> Iterator[Frame]:
    _refuse_damage(chunks)
    with decoding():
        image = PngImageFile(io.BytesIO(content))
        for number in range(extra, image.n_frames):
            image.seek(number)
            image.load()
            yield Frame(_with_alpha(image.copy(), chunks), round(image.info.get("duration", 0)))


def _refuse_damage(chunks: _Chunks) -> None:
    if chunks.damage is not None:
        raise broken(chunks.damage)


def _with_alpha(image: Image.Image, chunks: _Chunks) -> Image.Image:
    """Give grey and RGB the alpha that their one transparent colour means. Pillow compares it only with 8 bits of RGB.

    Of 16 bits of RGB Pillow keeps the upper 8; the colour's own upper 8 are compared with those.
    """
    if chunks.transparent is None or chunks.colour_type not in {_GREY, _RGB}:
        return image
    image.info.pop("transparency", None)
    if image.mode in {"LA", "RGBA"}:
        return image
    count = 1 if chunks.colour_type == _GREY else 3
    if len(chunks.transparent) != 2 * count:
        return image
    colour = list(struct.unpack(f">{count}H", chunks.transparent))
    if chunks.colour_type == _RGB and chunks.depth == 16:  # noqa: PLR2004 -- bits
        colour = [value >> 8 for value in colour]
    elif chunks.colour_type == _GREY and chunks.depth in {2, 4}:
        colour = [value * 255 // (2**chunks.depth - 1) for value in colour]
    pixels = np.asarray(image)
    is_clear = pixels == colour[0] if count == 1 else (pixels == colour).all(axis=2)
    alpha = Image.fromarray(np.where(is_clear, 0, 255).astype(np.uint8))
    if image.mode not in {"L", "RGB"}:
        from image_worker.images.colour import mixable

        image = mixable(image)
    image.putalpha(alpha)
    return image
