"""GIF: taken apart here, each picture decoded by Pillow, and put together as browsers do.

Pillow fills what a picture leaves behind with the background's colour; browsers leave it transparent. It also reads the
whole animation to count its pictures.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from image_worker.images.errors import broken, decoding, truncated
from image_worker.images.sources import Frame, Source, pixels_of
from offload_contracts.images import ImageFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXTENSION, _PICTURE, _TRAILER = 0x21, 0x2C, 0x3B
_CONTROL, _APPLICATION = 0xF9, 0xFF
_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
# What becomes of a picture before the next one (GIF89a, section 23): nothing, cleared, or what was there before.
_CLEARED, _RESTORED = 2, 3
_INTERLACED = 0x40


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture, not yet decoded, and where it goes."""

    left: int
    top: int
    width: int
    height: int
    flags: int
    palette: bytes
    codes: bytes
    disposal: int = 0
    transparent: int | None = None
    duration_ms: int = 0


@dataclass(slots=True)
class _Gif:
    size: tuple[int, int]
    pictures: list[_Picture]
    # As in browsers: once without the extension, for ever with 0, and n + 1 times with n.
    plays: int = 1
    is_complete: bool = False


def read(data: bytes) -> Source:
    """Return what a GIF holds."""
    gif = _parse(data)
    if not gif.pictures:
        raise truncated()
    size = gif.size
    return Source(
        ImageFormat.GIF,
        size,
        has_alpha=True,
        still=partial(_still, gif),
        frames=partial(_frames, gif),
        decoded_size=lambda _: size,
        frame_count=len(gif.pictures),
        plays=gif.plays,
    )


class _Reader:
    """Bytes, read forward."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise EOFError
        self._at += count
        return taken

    def blocks(self) -> bytes:
        """Return a chain of sub-blocks with their lengths, as they stand in the file."""
        start = self._at
        while length := self.take(1)[0]:
            self.take(length)
        return self._data[start : self._at]


def _parse(data: bytes) -> _Gif:
    reader = _Reader(data)
    try:
        reader.take(6)
        width, height, flags, _, _ = struct.unpack("<HHBBB", reader.take(7))
        shared = _palette(reader, flags)
    except EOFError:
        raise truncated() from None
    gif = _Gif((width, height), [])
    disposal, transparent, duration_ms = 0, None, 0
    try:
        while (kind := reader.take(1)[0]) != _TRAILER:
            if kind == _EXTENSION:
                label = reader.take(1)[0]
                content = reader.blocks()
                if label == _CONTROL and len(content) >= 5:  # noqa: PLR2004 -- GIF89a, section 23
                    packed, delay, index = struct.unpack_from("<BHB", content, 1)
                    disposal, duration_ms = packed >> 2 & 7, delay * 10
                    transparent = index if packed & 1 else None
                elif label == _APPLICATION and content[1:12] in _LOOPS and content[12:14] == b"\x03\x01":
                    loops = int.from_bytes(content[14:16], "little")
                    gif.plays = loops + 1 if loops else 0
            elif kind == _PICTURE:
                left, top, across, down, own = struct.unpack("<HHHHB", reader.take(9))
                palette = _palette(reader, own) or shared
                codes = reader.take(1) + reader.blocks()
                gif.pictures.append(
                    _Picture(left, top, across, down, own, palette, codes, disposal, transparent, duration_ms)
                )
                disposal, transparent, duration_ms = 0, None, 0
            else:
                raise broken("something that is no part of a GIF")
        gif.is_complete = True
    except EOFError:
        # Without the trailer every picture may be there; in the middle of one it is missing.
        gif.is_complete = kind != _PICTURE if gif.pictures else False
    if 0 in gif.size and gif.pictures:
        first = gif.pictures[0]
        gif.size = (first.left + first.width, first.top + first.height)
    return gif


def _palette(reader: _Reader, flags: int) -> bytes:
    return reader.take(3 * 2 ** ((flags & 7) + 1)) if flags & 0x80 else b""


def _still(gif: _Gif, _: tuple[float, float]) -> Image.Image:
    """Return the first picture, with its palette where it fills the canvas."""
    first = gif.pictures[0]
    picture = _decode(first)
    if (first.left, first.top, *picture.size) == (0, 0, *gif.size):
        return picture
    canvas = Image.new("RGBA", gif.size)
    canvas.paste(picture.convert("RGBA"), (first.left, first.top))
    return canvas


def _frames(gif: _Gif) -> Iterator[Frame]:
    if not gif.is_complete:
        raise truncated()
    canvas = Image.new("RGBA", gif.size)
    for picture in gif.pictures:
        tile = _decode(picture).convert("RGBA")
        before = canvas.copy() if picture.disposal == _RESTORED else None
        place = (picture.left, picture.top)
        # Pixels are on or off: those that are off keep what is there.
        canvas.paste(tile, place, tile.getchannel("A"))
        yield Frame(canvas.copy(), picture.duration_ms)
        if before is not None:
            canvas = before
        elif picture.disposal == _CLEARED:
            canvas.paste((0, 0, 0, 0), (*place, picture.left + picture.width, picture.top + picture.height))


def _decode(picture: _Picture) -> Image.Image:
    """Decode one picture as a GIF of its own."""
    if not picture.palette:
        raise broken("a picture has no palette")
    if 0 in (picture.width, picture.height):
        raise broken("a picture has no size")
    depth = (len(picture.palette) // 3).bit_length() - 2
    control = b""
    if picture.transparent is not None:
        control = struct.pack("<BBBBHBB", _EXTENSION, _CONTROL, 4, 1, 0, picture.transparent, 0)
    content = b"".join(
        (
            b"GIF89a",
            struct.pack("<HHBBB", picture.width, picture.height, 0x80 | depth, 0, 0),
            picture.palette,
            control,
            struct.pack("<BHHHHB", _PICTURE, 0, 0, picture.width, picture.height, picture.flags & _INTERLACED),
            picture.codes,
            bytes([_TRAILER]),
        )
    )
    with decoding():
        return pixels_of(GifImageFile(io.BytesIO(content)))
