"""A real 12 MP photo to 800 and 200 pixels on one core, beside Pillow as most people use it."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from benchmarks.measure import Comparison, in_turn
from image_worker import images

if TYPE_CHECKING:
    from collections.abc import Callable

PHOTO = Path(__file__).parent / "photos" / "car.jpg"


def compare() -> None:
    """Compare photos a second on one core."""
    data = PHOTO.read_bytes()
    values = in_turn({"naive Pillow": _timed(_naive, data), "Offload": _timed(_ours, data)})
    Comparison("12 MP photo to 800 px and 200 px", "photos/s", values, more_is_better=True).show("4 x or more")


def _timed(function: Callable[[bytes], None], data: bytes, count: int = 4) -> Callable[[], float]:
    function(data)

    def run() -> float:
        started = time.process_time()
        for _ in range(count):
            function(data)
        return count / (time.process_time() - started)

    return run


def _naive(data: bytes) -> None:
    """Open, turn, resize with Lanczos from the full size for each, save."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    for side in (800, 200):
        ratio = side / max(image.size)
        small = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.LANCZOS)
        small.save(io.BytesIO(), "JPEG", quality=85)


def _ours(data: bytes) -> None:
    """Do both steps of the chain: the thumbnail is made of the first one's output."""
    large = images.resize(data, width=800, height=800)
    images.resize(large.data, width=200, height=200)
