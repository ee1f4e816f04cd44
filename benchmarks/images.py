"""Real photos on one core: speed beside Pillow as most people use it and beside libvips, and the quality of each."""

from __future__ import annotations

import io
import math
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyvips
from PIL import Image, ImageOps
from rich.table import Table

from benchmarks.measure import Comparison, console, in_turn
from image_worker import images
from image_worker.images.jpeg import DRAFT_MARGIN
from offload_contracts.images import ImageFormat

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent
PHOTO = ROOT / "photos" / "car.jpg"
PHOTOS = (PHOTO, ROOT.parent / "devstack" / "src" / "devstack" / "photos" / "flowers.jpg")
# Shares of a photo's width: at 0.45 and 0.3 the decoder's halving matters most.
SHARES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6)


def compare() -> None:
    """Compare photos a second on one core, and how near each comes to a full decode with Lanczos."""
    data = PHOTO.read_bytes()
    pyvips.cache_set_max(0)
    sides = {"naive Pillow": _naive, "libvips thumbnail": _vips, "Offload": _ours}
    values = in_turn({name: _timed(side, data) for name, side in sides.items()})
    Comparison("12 MP photo to 800 px and 200 px", "photos/s", values, more_is_better=True).show("2 x or more")
    _show_quality()


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


def _vips(data: bytes) -> None:
    for side in (800, 200):
        pyvips.Image.thumbnail_buffer(data, side, height=side).jpegsave_buffer(Q=85)


def _ours(data: bytes) -> None:
    """Do both steps of the chain: each is made of the upload."""
    images.resize(data, width=800, height=800)
    images.resize(data, width=200, height=200)


def _show_quality() -> None:
    """Print how near each side's pixels are to a full decode with Lanczos, before they are encoded."""
    found: dict[str, list[float]] = {"libvips thumbnail": [], f"Offload (margin {DRAFT_MARGIN:g})": []}
    for file in PHOTOS:
        data = file.read_bytes()
        full = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        for share in SHARES:
            width = round(full.width * share)
            made = images.resize(data, width=width, height=None, target=ImageFormat.PNG)
            size = made.width, made.height
            reference = full.resize(size, Image.Resampling.LANCZOS)
            theirs = pyvips.Image.thumbnail_buffer(data, size[0], height=size[1], size="force")
            for values, pixels in zip(found.values(), (theirs.numpy(), Image.open(io.BytesIO(made.data))), strict=True):
                values.append(_psnr(np.asarray(pixels), np.asarray(reference)))
    table = Table("pixels against a full decode with Lanczos", "least dB", "p10 dB", "median dB", title_justify="left")
    for name, values in found.items():
        ordered = sorted(values)
        tenth = ordered[len(ordered) // 10]
        table.add_row(name, f"{ordered[0]:.1f}", f"{tenth:.1f}", f"{statistics.median(ordered):.1f}")
    console.print(table)
    console.print(f"{len(PHOTOS)} photos at {len(SHARES)} sizes; 99 is the same pixels; aim: no worse than libvips\n")


def _psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB; 99 where nothing differs."""
    error = float(((one.astype(float) - other.astype(float)) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else 99.0
