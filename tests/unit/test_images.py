"""Images: every kind of pixel that comes in goes out upright, in sRGB, without metadata, or with a clear refusal."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

from image_worker import images
from image_worker.images import Limits
from offload_contracts.images import Fit, ImageFormat
from offload_core.errors import PermanentError


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def opened(rendered: images.Rendered) -> Image.Image:
    return Image.open(io.BytesIO(rendered.data))


def resize(data: bytes, width: int | None = None, height: int | None = None, **options) -> images.Rendered:
    return images.resize(data, width=width, height=height, **options)


def corners(width: int = 80, height: int = 40) -> Image.Image:
    """An image whose upper left quarter is red, upper right green, lower left blue, lower right white."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), "red")
    draw.rectangle((width // 2, 0, width, height // 2 - 1), "lime")
    draw.rectangle((0, height // 2, width // 2 - 1, height), "blue")
    return image


def is_near(pixel, colour, tolerance: int = 24) -> bool:
    return all(abs(one - other) <= tolerance for one, other in zip(pixel[:3], colour, strict=True))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"width": 40}, (40, 20)),
        ({"height": 10}, (20, 10)),
        ({"width": 40, "height": 40}, (40, 20)),
        ({"width": 400, "height": 400}, (80, 40)),
        ({}, (80, 40)),
        ({"width": 30, "height": 30, "fit": Fit.COVER}, (30, 30)),
        ({"width": 30, "height": 10, "fit": Fit.FILL}, (30, 10)),
        ({"width": 200, "height": 200, "fit": Fit.COVER}, (200, 200)),
    ],
)
def test_an_image_meets_its_box(options, size):
    rendered = resize(encoded(corners()), **options)
    assert (rendered.width, rendered.height) == size
    assert opened(rendered).size == size


def test_cover_cuts_evenly():
    wide = Image.new("RGB", (90, 30), "black")
    ImageDraw.Draw(wide).rectangle((30, 0, 59, 29), "white")
    image = opened(resize(encoded(wide), 30, 30, fit=Fit.COVER)).convert("RGB")
    assert is_near(image.getpixel((1, 15)), (255, 255, 255), 40)
    assert is_near(image.getpixel((28, 15)), (255, 255, 255), 40)


def test_a_side_is_never_nothing():
    assert (opened(resize(encoded(Image.new("RGB", (1000, 2))), 10)).size) == (10, 1)


# EXIF's orientations: where the stored upper left corner's red ends when the image is shown.
@pytest.mark.parametrize(
    ("orientation", "size", "where"),
    [
        (1, (80, 40), (5, 5)),
        (2, (80, 40), (75, 5)),
        (3, (80, 40), (75, 35)),
        (4, (80, 40), (5, 35)),
        (5, (40, 80), (5, 5)),
        (6, (40, 80), (35, 5)),
        (7, (40, 80), (35, 75)),
        (8, (40, 80), (5, 75)),
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_image_comes_out_upright(form, orientation, size, where):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(corners(), form, exif=exif, **({} if form == "PNG" else {"quality": 95}))
    image = opened(resize(data)).convert("RGB")
    assert image.size == size
    assert is_near(image.getpixel(where), (255, 0, 0), 60)
    assert opened(resize(data, width=20)).size == (20, 10 if size == (80, 40) else 40)


def test_metadata_is_left_out():
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    exif.get_ifd(0x8825)[1] = "N"
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a secret place")
    for data in (
        encoded(corners(), "JPEG", exif=exif, comment=b"a secret place", xmp=b"<x>a secret place</x>"),
        encoded(corners(), "PNG", exif=exif, pnginfo=text),
        encoded(corners(), "WEBP", exif=exif, xmp=b"<x>a secret place</x>"),
        encoded(corners().convert("P"), "GIF", comment=b"a secret place"),
    ):
        for target in (None, ImageFormat.PNG, ImageFormat.WEBP, ImageFormat.JPEG):
            rendered = resize(data, 20, target=target)
            assert b"secret" not in rendered.data
            assert not opened(rendered).getexif()


def test_a_profile_is_applied_and_left_out():
    # A profile that swaps red and green: whoever ignores it gets the colours wrong.
    swapped = swapped_profile()
    red = Image.new("RGB", (40, 40), (200, 40, 40))
    for form in ("JPEG", "PNG", "WEBP"):
        image = opened(resize(encoded(red, form, icc_profile=swapped), 10))
        assert "icc_profile" not in image.info
        pixel = image.convert("RGB").getpixel((5, 5))
        assert pixel[1] > pixel[0] + 80, f"{form}: green now, {pixel}"


def swapped_profile() -> bytes:
    """Return sRGB's profile with the primaries of red and green exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    entries = {bytes(profile[132 + i * 12 : 136 + i * 12]): 132 + i * 12 for i in range(count)}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def test_a_broken_profile_does_not_spoil_the_image():
    assert opened(resize(encoded(corners(), "JPEG", icc_profile=b"no profile at all"), 20)).size == (20, 10)


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (40, 40), (0, 255, 255, 0))
    image = opened(resize(encoded(cmyk, "JPEG", quality=95), 20))
    assert image.mode == "RGB"
    assert is_near(image.getpixel((10, 10)), (255, 0, 0), 40)


def test_sixteen_bits_are_scaled_not_cut():
    grey = Image.new("I;16", (40, 40), 32_896)
    pixel = opened(resize(encoded(grey), 20)).convert("L").getpixel((10, 10))
    assert abs(pixel - 128) <= 1


def test_a_palette_with_transparency_keeps_it():
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    ImageDraw.Draw(palette).rectangle((0, 0, 19, 39), 0)
    image = opened(resize(encoded(palette, "PNG", transparency=0), 20)).convert("RGBA")
    assert image.getpixel((2, 10))[3] == 0
    assert image.getpixel((17, 10))[3] == 255


def test_transparent_pixels_do_not_bleed():
    """Mixed without premultiplication, the invisible red would tint the white beside it."""
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((0, 0, 18, 39), (255, 255, 255, 255))
    small = opened(resize(encoded(image), 10)).convert("RGBA")
    for x in range(10):
        red, green, blue, alpha = small.getpixel((x, 5))
        if alpha > 30:
            assert min(red, green, blue) > 240


def test_jpeg_of_something_transparent_gets_a_white_ground():
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert is_near(opened(resize(encoded(image), 20, target=ImageFormat.JPEG)).getpixel((5, 5)), (255, 255, 255))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("target", [ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.WEBP, ImageFormat.GIF])
def test_every_mode_goes_into_every_format(mode, target):
    rendered = resize(encoded(Image.new(mode, (30, 20))), 15, target=target)
    image = opened(rendered)
    image.load()
    assert (image.format, image.size) == (target.name, (15, 10))


def animation(form: str, frames: int = 4) -> bytes:
    pictures = [Image.new("RGB", (40, 20), colour) for colour in ("red", "lime", "blue", "white")[:frames]]
    return encoded(pictures[0], form, save_all=True, append_images=pictures[1:], duration=[100, 200, 300, 400], loop=3)


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(form):
    image = opened(resize(animation(form), 20))
    assert getattr(image, "n_frames", 1) == 1
    assert is_near(image.convert("RGB").getpixel((5, 5)), (255, 0, 0), 40)


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
@pytest.mark.parametrize("target", [ImageFormat.GIF, ImageFormat.WEBP])
def test_an_animation_is_kept_when_asked_for(form, target):
    image = opened(resize(animation(form), 20, animated=True, target=target))
    durations = []
    for frame in range(image.n_frames):
        image.seek(frame)
        image.load()
        durations.append(image.info["duration"])
    assert (image.n_frames, image.size, durations) == (4, (20, 10), [100, 200, 300, 400])
    # A GIF counts repetitions, a WebP all showings.
    plays = 4 if form == "GIF" else 3
    assert image.info["loop"] == (plays - 1 if target is ImageFormat.GIF else plays)


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "limits", "code"),
    [
        (b"", None, "image.not_an_image"),
        (b"This is no image.", None, "image.not_an_image"),
        (b"%PDF-1.4 nor is this", None, "image.format_unsupported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", None, "image.format_unsupported"),
        (png_header(50_000, 50_000), None, "image.too_large"),
        (png_header(20_000, 10), None, "image.too_large"),
        (png_header(9_000, 9_000), None, "image.too_large"),
        (encoded(Image.new("RGB", (100, 100))), Limits(pixels=9_999), "image.too_large"),
        (encoded(Image.new("RGB", (101, 10))), Limits(side_pixels=100), "image.too_large"),
        (encoded(corners(400, 400), "JPEG")[:1500], None, "image.truncated"),
        (encoded(corners(400, 400), "PNG")[:300], None, "image.truncated"),
        (png_header(100, 100), None, "image.truncated"),
        (encoded(corners(), "BMP"), None, "image.format_unsupported"),
        (encoded(corners(), "TIFF"), None, "image.format_unsupported"),
    ],
)
def test_what_is_not_taken_has_a_code(data, limits, code):
    with pytest.raises(PermanentError) as raised:
        resize(data, 50, limits=limits)
    assert raised.value.code == code


def test_too_many_frames_are_refused_only_when_they_are_kept():
    with pytest.raises(PermanentError) as raised:
        resize(animation("GIF"), 20, animated=True, limits=Limits(frames=3))
    assert raised.value.code == "image.too_many_frames"
    assert resize(animation("GIF"), 20, limits=Limits(frames=3)).width == 20


def test_the_pixels_of_all_frames_count():
    with pytest.raises(PermanentError) as raised:
        resize(animation("GIF"), 20, animated=True, limits=Limits(pixels=2_000))
    assert raised.value.code == "image.too_large"


def test_the_same_image_gives_the_same_bytes():
    data = encoded(corners(), "JPEG")
    assert resize(data, 20) == resize(data, 20)


@pytest.mark.skipif(ImageFormat.AVIF not in images.FORMATS, reason="this Pillow was built without AVIF")
def test_avif_where_the_wheel_has_it():
    rendered = resize(encoded(corners(), "JPEG"), 40, target=ImageFormat.AVIF)
    assert (rendered.media_type, opened(rendered).size) == ("image/avif", (40, 20))
