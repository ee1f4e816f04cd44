"""Damaged images: what every viewer shows in full is taken, what lacks pixels is refused, and nothing half is SUCCESS.

The verdicts are held against libvips (told to fail on what it calls an error) and, where it is installed, ImageMagick.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms, PngImagePlugin

from image_worker import images
from offload_contracts.images import ImageFormat
from offload_core.errors import PermanentError

FOLDER = Path(__file__).parent / "images"
TAKEN, BROKEN, TRUNCATED = "taken", "image.broken", "image.truncated"


def photo(width: int = 96, height: int = 64) -> Image.Image:
    """A picture in which no two blocks are the same."""
    noise = np.random.default_rng(7).integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(form: str, image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or photo()).save(buffer, form, **options)
    return buffer.getvalue()


def outcome(data: bytes, **options) -> str:
    try:
        images.resize(data, **({"width": None, "height": None} | options))
    except PermanentError as error:
        return error.code
    return TAKEN


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def with_damaged_pixels(*, repaired: bool) -> bytes:
    """A PNG whose compressed pixels are overwritten in the middle, its checksum wrong, or right again."""
    chunks = png_chunks(encoded("PNG"))
    damaged = []
    for kind, content in chunks:
        middle = len(content) // 2
        changed = content[:middle] + bytes(64) + content[middle + 64 :] if kind == b"IDAT" else content
        damaged.append((kind, changed))
    if repaired:
        return png_of(damaged)
    data = bytearray(png_of(damaged))
    at = data.index(b"IDAT") + 4 + next(len(content) for kind, content in damaged if kind == b"IDAT")
    data[at : at + 4] = zlib.crc32(b"something else").to_bytes(4, "big")
    return bytes(data)


def with_one_bit_flipped_in_a_stored_block() -> bytes:
    """A PNG whose pixels still decompress: only the chunk's checksum can tell."""
    data = bytearray(encoded("PNG", compress_level=0))
    data[data.index(b"IDAT") + 500] ^= 1
    return bytes(data)


def with_chunk(kind: bytes, content: bytes, *, late: bool = False, checksum: bool = True) -> bytes:
    chunks = png_chunks(encoded("PNG"))
    chunks.insert(-1 if late else 1, (kind, content))
    data = bytearray(png_of(chunks))
    if not checksum:
        at = data.index(kind) + 4 + len(content)
        data[at : at + 4] = b"\0\1\2\3"
    return bytes(data)


def png_with_large_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 2_000_000, zip=True)
    return encoded("PNG", pnginfo=text)


def png_with_large_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(1_500_000)
    return with_chunk(b"iCCP", b"large\0\0" + zlib.compress(profile))


JPEG, PROGRESSIVE, PNG = encoded("JPEG", quality=90), encoded("JPEG", progressive=True), encoded("PNG")
GIF, WEBP, AVIF = encoded("GIF", photo().quantize(64)), encoded("WEBP"), encoded("AVIF")
RESTARTS = encoded("JPEG", restart_marker_rows=1)


def mpo() -> bytes:
    return encoded("MPO", save_all=True, append_images=[photo().rotate(90)])


# name: file, verdict, and whether libvips agrees. It calls a JPEG without its end marker truncated, and passes over
# damage that it only warns of.
MATRIX = {
    "jpeg: end marker missing": (JPEG[:-2], TAKEN, False),
    "jpeg: half of the end marker": (JPEG[:-1], TAKEN, False),
    "jpeg: bytes behind the end": (JPEG + b"something" * 50, TAKEN, True),
    "jpeg: padding before the end marker": (JPEG[:-2] + bytes(40) + JPEG[-2:], TAKEN, True),
    "jpeg: two pictures in one file": (mpo(), TAKEN, True),
    "jpeg: the second picture is cut off": (mpo()[:-200], TAKEN, True),
    "jpeg: cut in the middle": (JPEG[: len(JPEG) // 2], TRUNCATED, True),
    "jpeg: cut in the middle, with an end marker": (JPEG[: len(JPEG) // 2] + JPEG[-2:], TRUNCATED, False),
    "jpeg: cut behind the header": (JPEG[: JPEG.index(b"\xff\xda") + 14], TRUNCATED, True),
    "jpeg: cut in the header": (JPEG[:40], TRUNCATED, True),
    "jpeg: progressive, cut in a scan": (PROGRESSIVE[: len(PROGRESSIVE) // 2], TRUNCATED, True),
    "jpeg: a restart interval is missing": (
        RESTARTS[: RESTARTS.index(b"\xff\xd0")] + RESTARTS[RESTARTS.index(b"\xff\xd2") :], BROKEN, False,
    ),
    "png: end chunk missing": (PNG[:-12], TAKEN, True),
    "png: end chunk cut off": (PNG[:-5], TAKEN, True),
    "png: bytes behind the end": (PNG + b"something" * 50, TAKEN, True),
    "png: cut in the middle": (PNG[: len(PNG) // 2], TRUNCATED, True),
    "png: damaged pixels, wrong checksum": (with_damaged_pixels(repaired=False), BROKEN, False),
    "png: damaged pixels, right checksum": (with_damaged_pixels(repaired=True), BROKEN, False),
    "png: one bit flipped, wrong checksum": (with_one_bit_flipped_in_a_stored_block(), BROKEN, False),
    "png: unknown chunk with a wrong checksum": (with_chunk(b"abCd", b"content", checksum=False), TAKEN, True),
    "png: late text": (with_chunk(b"tEXt", b"Comment\0late", late=True), TAKEN, True),
    "png: late text with a wrong checksum": (
        with_chunk(b"tEXt", b"Comment\0late", late=True, checksum=False), TAKEN, True,
    ),
    "png: text of 2 MB": (png_with_large_text(), TAKEN, True),
    "png: profile of 1.5 MB": (png_with_large_profile(), TAKEN, True),
    "png: profile that does not decompress": (with_chunk(b"iCCP", b"bad\0\0nothing at all"), TAKEN, True),
    "gif: trailer missing": (GIF[:-1], TAKEN, True),
    "gif: bytes behind the end": (GIF + b"something", TAKEN, True),
    "gif: cut in the middle": (GIF[: len(GIF) // 2], TRUNCATED, True),
    "gif: cut in the palette": (GIF[:40], TRUNCATED, True),
    "webp: bytes behind the end": (WEBP + b"something" * 5, TAKEN, True),
    "webp: cut in the middle": (WEBP[: len(WEBP) // 2], BROKEN, True),
    "avif: bytes behind the end": (AVIF + b"something" * 5, TAKEN, True),
    "avif: cut in the middle": (AVIF[: len(AVIF) // 2], BROKEN, True),
}  # fmt: skip


@pytest.mark.parametrize("name", MATRIX)
def test_every_kind_of_damage_has_its_verdict(name):
    data, expected, _ = MATRIX[name]
    assert outcome(data) == expected
    assert outcome(data, width=40) == expected, "a smaller result makes no difference"


@pytest.mark.parametrize("name", [name for name, (_, _, agrees) in MATRIX.items() if agrees and "avif" not in name])
def test_libvips_takes_and_refuses_the_same(name):
    data, expected, _ = MATRIX[name]
    try:
        # An end marker that is missing is "truncated" to libvips, and shown by browsers: told to fail on errors.
        pyvips.Image.new_from_buffer(data, "", fail_on="error" if expected == TAKEN else "warning").copy_memory()
        taken = True
    except pyvips.Error:
        taken = False
    assert taken == (expected == TAKEN)


@pytest.mark.parametrize("name", [name for name, (_, verdict, _) in MATRIX.items() if verdict == TAKEN])
def test_what_is_taken_is_the_whole_picture(name):
    """As libvips decodes it, within the rounding of lossy formats."""
    data = MATRIX[name][0]
    made = Image.open(io.BytesIO(images.resize(data, width=None, height=None, target=ImageFormat.PNG).data))
    if "avif" in name:
        reference = np.asarray(Image.open(io.BytesIO(AVIF)).convert("RGB"), dtype=float)
    else:
        reference = pyvips.Image.new_from_buffer(data, "").numpy()[..., :3].astype(float)
    assert np.abs(np.asarray(made.convert("RGB"), dtype=float) - reference).mean() < 2


# ImageMagick writes nothing for a PNG without its end, which browsers show.
MAGICK_REFUSES = {"png: end chunk missing", "png: end chunk cut off"}
SHOWN = [
    name
    for name, (_, verdict, _) in MATRIX.items()
    if verdict == TAKEN and "avif" not in name and name not in MAGICK_REFUSES
]
MAGICK = shutil.which("magick") or shutil.which("convert-im6.q16")


@pytest.mark.skipif(MAGICK is None and "CI" not in os.environ, reason="ImageMagick is not installed")
@pytest.mark.parametrize("name", SHOWN)
def test_imagemagick_shows_what_we_take(name, tmp_path):
    assert MAGICK is not None, "CI has ImageMagick"
    file = tmp_path / "image"
    file.write_bytes(MATRIX[name][0])
    shown = tmp_path / "shown.png"
    # It warns of what it tolerates, and writes the picture.
    subprocess.run([MAGICK, f"{file}[0]", f"PNG24:{shown}"], capture_output=True, timeout=60, check=False)
    with Image.open(shown) as image:
        assert image.size == photo().size


def test_a_multi_picture_jpeg_is_decoded_smaller_like_any_other():
    (full, half) = (images.sources.identify(mpo()).decoded_size((width, width)) for width in (96, 16))
    assert (full, half) == ((96, 64), (48, 32))


@pytest.mark.parametrize(
    "base", [JPEG, PROGRESSIVE, PNG, GIF, WEBP, AVIF], ids=["jpeg", "progressive", "png", "gif", "webp", "avif"]
)
def test_no_damage_ends_without_a_code(base):
    """Bytes are changed, cut and doubled at random: each result is an image, or an error of ours."""
    chance = random.Random(len(base))
    codes = set()
    for _ in range(150):
        data = bytearray(base)
        for _ in range(chance.choice([1, 1, 2, 8])):
            at = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[at] ^= 1 << chance.randrange(8)
                case 1:
                    data[at] = chance.choice([0, 255, 128])
                case 2:
                    del data[at : at + chance.randrange(1, 40)]
                case _:
                    data[at:at] = data[at : at + 8]
        options = {"target": chance.choice([None, *ImageFormat]), "animated": chance.random() < 0.3}
        codes.add(outcome(bytes(data), **options, limits=images.Limits(pixels=1_000_000, memory_bytes=400_000_000)))
    assert all(code == TAKEN or code.startswith("image.") for code in codes)
    assert "image.not_encodable" not in codes
