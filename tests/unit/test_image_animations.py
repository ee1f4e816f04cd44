"""Animations: counts, disposal and transparency as browsers have them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from image_worker import images
from image_worker.images import Limits
from image_worker.images.sources import identify
from offload_contracts.images import ImageFormat
from offload_core.errors import PermanentError

FOLDER = Path(__file__).parent / "images"
GIF, WEBP, PNG = ImageFormat.GIF, ImageFormat.WEBP, ImageFormat.PNG


def animated(data: bytes, target: ImageFormat | None = None, width: int | None = None, **options) -> images.Rendered:
    return images.resize(data, width=width, height=None, target=target, animated=True, **options)


def pictures(data: bytes) -> list[Image.Image]:
    """The frames as our own reader shows them, which the tests below hold to what browsers show."""
    return [frame.image.convert("RGBA") for frame in identify(data).frames()]


def gif(*frames: tuple[Image.Image, tuple[int, int], int, int | None], loops: int | None = None) -> bytes:
    """Return a GIF of pictures (in mode P), each with its place, disposal and transparent index."""
    size = frames[0][0].size
    data = b"GIF89a" + struct.pack("<HHBBB", *size, 0x80, 1, 0) + bytes([255, 0, 0, 0, 0, 255])
    if loops is not None:
        data += b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", loops) + b"\0"
    for image, (left, top), disposal, transparent in frames:
        buffer = io.BytesIO()
        image.save(buffer, "GIF", optimize=False)
        body = buffer.getvalue()
        at = body.index(b"\x2c", 13 + 3 * 2 ** ((body[10] & 7) + 1))
        palette = body[13 : 13 + 3 * 2 ** ((body[10] & 7) + 1)]
        flags = disposal << 2 | (transparent is not None)
        data += b"\x21\xf9\x04" + struct.pack("<BHBB", flags, 5, transparent or 0, 0)
        data += (
            struct.pack("<BHHHHB", 0x2C, left, top, *image.size, 0x80 | (body[10] & 7)) + palette + body[at + 10 : -1]
        )
    return data + b"\x3b"


def square(colour: tuple[int, int, int], side: int = 8) -> Image.Image:
    image = Image.new("P", (side, side), 1)
    image.putpalette([0, 0, 0, *colour] + [9] * 6)
    return image


@pytest.mark.parametrize(("loops", "plays"), [(None, 1), (0, 0), (1, 2), (3, 4)])
def test_how_often_a_gif_plays_survives_every_format(loops, plays):
    data = gif((square((255, 0, 0)), (0, 0), 0, None), (square((0, 255, 0)), (0, 0), 0, None), loops=loops)
    assert identify(data).plays == plays
    for target in (GIF, WEBP, PNG):
        assert identify(animated(data, target).data).plays == plays, target


@pytest.mark.parametrize(("name", "plays"), [("gif_play_once.gif", 1), ("gif_loop3.gif", 4)])
def test_a_real_gif_plays_as_often_as_before(name, plays):
    data = (FOLDER / name).read_bytes()
    made = Image.open(io.BytesIO(animated(data, WEBP).data))
    assert made.info["loop"] == plays
    assert identify(animated(data).data).plays == plays


def test_many_small_frames_are_taken():
    data = (FOLDER / "gif_101_frames.gif").read_bytes()
    assert identify(animated(data).data).frame_count == 101
    with pytest.raises(PermanentError) as raised:
        animated(data, limits=Limits(frames=100))
    assert raised.value.code == "image.too_many_frames"
    with pytest.raises(PermanentError) as raised:
        animated(data, limits=Limits(pixels=60 * 40 * 100))
    assert raised.value.code == "image.too_large"


def test_what_a_picture_leaves_behind_is_transparent():
    """Disposal 2: browsers clear to transparent, whatever the background's colour is."""
    data = gif(
        (square((255, 0, 0)), (0, 0), 2, None),
        (square((0, 255, 0), 4), (0, 0), 0, None),
    )
    for content in (data, animated(data).data, animated(data, WEBP).data, animated(data, PNG).data):
        first, second = pictures(content)
        red, green, _, alpha = first.getpixel((6, 6))
        assert (red > 250, green < 5, alpha) == (True, True, 255)
        assert second.getpixel((6, 6))[3] == 0
        assert second.getpixel((1, 1))[1] > 200


def test_what_was_there_before_is_restored():
    data = gif(
        (square((255, 0, 0)), (0, 0), 1, None),
        (square((0, 255, 0), 4), (0, 0), 3, None),
        (square((0, 0, 255), 2), (6, 6), 0, None),
    )
    for content in (data, animated(data).data, animated(data, PNG).data):
        *_, last = pictures(content)
        assert last.getpixel((1, 1)) == (255, 0, 0, 255)
        assert last.getpixel((7, 7)) == (0, 0, 255, 255)


def test_the_default_picture_of_an_apng_is_no_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "PNG", save_all=True, append_images=frames[1:], default_image=True, duration=[70, 80], loop=5
    )
    source = identify(buffer.getvalue())
    assert (source.frame_count, source.plays) == (2, 5)
    made = pictures(animated(buffer.getvalue(), WEBP).data)
    assert made[0].getpixel((4, 4))[1] > 200
    # Without the animation, it is the picture that there is.
    still = Image.open(io.BytesIO(images.resize(buffer.getvalue(), width=None, height=None).data))
    assert still.convert("RGB").getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("target", [ImageFormat.JPEG, ImageFormat.AVIF])
def test_an_animation_is_never_silently_one_frame(target):
    with pytest.raises(PermanentError) as raised:
        animated((FOLDER / "gif_loop3.gif").read_bytes(), target)
    assert raised.value.code == "image.animation_unsupported"


def test_a_cut_animation_is_refused_and_its_first_frame_is_taken():
    data = (FOLDER / "gif_101_frames.gif").read_bytes()[:4000]
    with pytest.raises(PermanentError) as raised:
        animated(data)
    assert raised.value.code == "image.truncated"
    assert images.resize(data, width=None, height=None).width == 60


def test_durations_survive():
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (at * 60, 0, 0)) for at in range(3)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:], duration=[70, 80, 90])
    for target in (GIF, WEBP, PNG):
        made = identify(animated(buffer.getvalue(), target).data)
        assert [frame.duration_ms for frame in made.frames()] == [70, 80, 90], target
