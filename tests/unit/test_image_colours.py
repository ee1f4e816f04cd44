"""Colours and transparency that are easily lost."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from image_worker import images
from image_worker.images.cmyk import default_profile
from image_worker.images.geometry import orientation_of
from offload_contracts.images import ImageFormat
from offload_core.errors import PermanentError

FOLDER = Path(__file__).parent / "images"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows: list[bytes], width: int, depth: int, colour: int, *more: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(*one) for one in more)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def made(data: bytes, width: int | None = None, target: ImageFormat | None = None) -> Image.Image:
    return Image.open(io.BytesIO(images.resize(data, width=width, height=None, target=target).data))


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# Two pixels of each file: the first is the transparent colour, the second is another.
@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent"),
    [
        (1, 0, b"\x40", b"\0\0"),
        (2, 0, b"\x10", b"\0\0"),
        (2, 0, b"\x60", b"\0\1"),
        (4, 0, b"\x37", b"\0\3"),
        (4, 0, b"\x0f", b"\0\0"),
        (8, 0, b"\x20\x80", b"\0\x20"),
        (16, 0, b"\0\0\x80\0", b"\0\0"),
        (16, 0, b"\x12\x34\x12\x35", b"\x12\x34"),
        (8, 2, b"\1\2\3\1\2\4", b"\0\1\0\2\0\3"),
        (16, 2, b"\1\1\2\2\3\3\1\1\2\2\4\4", b"\1\1\2\2\3\3"),
        (8, 3, b"\0\1", b"\0\xff"),
        (4, 3, b"\x01", b"\0"),
    ],
)
@pytest.mark.parametrize("target", [None, ImageFormat.WEBP, ImageFormat.GIF])
def test_the_transparent_colour_of_a_png_stays_transparent(depth, colour, row, transparent, target):
    palette = [(b"PLTE", bytes([9, 9, 9, 200, 0, 0]))] if colour == 3 else []
    data = png([row, row], 2, depth, colour, *palette, (b"tRNS", transparent))
    alpha = made(data, target=target).convert("RGBA").getchannel("A")
    assert [alpha.getpixel((x, 0)) for x in (0, 1)] == [0, 255]


def test_a_real_grey_png_of_16_bits_keeps_its_transparency():
    data = (FOLDER / "gray16_trns_black_transparent.png").read_bytes()
    assert made(data).convert("RGBA").getchannel("A").getextrema() == (0, 255)
    assert made(data, 20).convert("RGBA").getchannel("A").getextrema()[0] == 0


@pytest.mark.parametrize(("alpha", "shown"), [(10, 0), (127, 0), (128, 255), (250, 255)])
def test_a_pixel_of_a_gif_is_clear_below_half(alpha, shown):
    image = Image.new("RGBA", (16, 16), (200, 30, 30, alpha))
    image.putpixel((0, 0), (0, 0, 0, 255))
    found = np.asarray(made(encoded(image), target=ImageFormat.GIF).convert("RGBA"))[1:, 1:, 3]
    assert (found == shown).all(), "without dithering: all pixels alike"


def gray_profile(gamma: float) -> bytes:
    """A profile of grey with one gamma."""
    white = struct.pack(">3i", 63190, 65536, 54061)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + white,
        b"kTRC": b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2),
    }
    offset, directory, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        directory += tag + struct.pack(">2I", offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I", 128 + len(directory) + len(body)) + bytes(4) + b"\x02\x40\0\0mntrGRAYXYZ "
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white
    return header.ljust(128, b"\0") + directory + body


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_profile_is_applied_with_alpha_and_without(mode):
    colour = 128 if mode == "L" else (128, 100)
    data = encoded(Image.new(mode, (8, 8), colour), icc_profile=gray_profile(1.0))
    image = made(data)
    assert abs(image.getchannel(0).getpixel((4, 4)) - 188) <= 2, "linear grey of one half is 188 in sRGB"
    assert image.mode == mode


def test_xmp_does_not_turn_an_image():
    assert made((FOLDER / "xmp_only_orientation6.jpg").read_bytes()).size == (60, 40)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9])
def test_an_orientation_of_any_integer_type_is_read(order, kind):
    code = {1: "B3x", 3: "H2x", 4: "I", 6: "b3x", 8: "h2x", 9: "i"}[kind]
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 1)
    tiff += struct.pack(f"{order}HHI{code}", 0x0112, kind, 1, 6)
    assert orientation_of(b"Exif\0\0" + tiff) == 6
    assert orientation_of(tiff[:-5]) == 1


@pytest.mark.parametrize(
    ("inks", "least", "most"),
    [
        ((0, 0, 0, 0), (253, 253, 253), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0), (45, 45, 45)),
        ((255, 0, 0, 0), (0, 130, 200), (40, 180, 255)),
        ((0, 255, 255, 0), (205, 0, 0), (255, 70, 80)),
        ((0, 0, 255, 0), (240, 220, 0), (255, 255, 60)),
    ],
)
def test_cmyk_without_a_profile_is_taken_for_coated_paper(inks, least, most):
    pixel = made(encoded(Image.new("CMYK", (16, 16), inks), "JPEG", quality=100)).getpixel((8, 8))
    assert all(low <= value <= high for low, value, high in zip(least, pixel, most, strict=True)), pixel


def test_the_default_profile_is_one_that_others_can_read():
    profile = ImageCms.ImageCmsProfile(io.BytesIO(default_profile()))
    assert (profile.profile.xcolor_space, profile.profile.connection_space) == ("CMYK", "Lab ")


def test_the_gamma_of_a_png_is_honoured():
    row = bytes([128] * 8)
    assert made(png([row] * 8, 8, 8, 0)).getpixel((4, 4)) == 128
    linear = made(png([row] * 8, 8, 8, 0, (b"gAMA", struct.pack(">I", 100_000))))
    assert abs(linear.getpixel((4, 4)) - 187) <= 2
    usual = made(png([row] * 8, 8, 8, 0, (b"gAMA", struct.pack(">I", 45_455))))
    assert usual.getpixel((4, 4)) == 128
    named = made(png([row] * 8, 8, 8, 0, (b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0")))
    assert named.getpixel((4, 4)) == 128, "sRGB says more than a gamma"


def test_few_colours_stay_few_where_nothing_is_scaled():
    image = Image.effect_noise((200, 200), 90).convert("RGB").quantize(16)
    data = encoded(image, optimize=True)
    result = images.resize(data, width=None, height=None)
    assert Image.open(io.BytesIO(result.data)).mode == "P"
    assert len(result.data) <= len(data)
    assert np.array_equal(np.asarray(made(data).convert("RGB")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("fit", ["fill", "cover"])
def test_the_result_is_limited_like_the_source(fit):
    data = (FOLDER / "one_pixel_rgb.png").read_bytes()
    with pytest.raises(PermanentError) as raised:
        images.resize(data, width=16_383, height=16_383, fit=images.Fit(fit))
    assert raised.value.code == "image.too_large"


def test_jpg_is_a_name_of_jpeg():
    assert ImageFormat("jpg") is ImageFormat.JPEG
