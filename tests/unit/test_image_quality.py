"""A photo is no worse than libvips' thumbnail of it, at any size, cut or turned."""

from __future__ import annotations

import io
import math
from importlib import resources

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageOps

from image_worker import images
from offload_contracts.images import Fit, ImageFormat

PHOTO = resources.files("devstack").joinpath("photos/flowers.jpg").read_bytes()


@pytest.fixture(scope="module")
def upright() -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(PHOTO)))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = float(((one.astype(float) - other.astype(float)) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else 99.0


def pixels(made: images.Rendered) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(made.data)).convert("RGB"))


@pytest.mark.parametrize("share", [0.03, 0.0625, 0.11, 0.2, 0.26, 0.45, 0.51, 0.7])
def test_no_size_is_worse_than_libvips(upright, share):
    made = images.resize(PHOTO, width=round(upright.width * share), height=None, target=ImageFormat.PNG)
    size = made.width, made.height
    reference = np.asarray(upright.resize(size, Image.Resampling.LANCZOS))
    theirs = pyvips.Image.thumbnail_buffer(PHOTO, size[0], height=size[1], size="force").numpy()
    # Half a decibel is what two implementations of one filter differ by.
    assert psnr(pixels(made), reference) > psnr(theirs, reference) - 0.5


def test_a_cut_is_as_good_as_the_whole(upright):
    made = images.resize(PHOTO, width=500, height=500, fit=Fit.COVER, target=ImageFormat.PNG)
    reference = ImageOps.fit(upright, (500, 500), Image.Resampling.LANCZOS)
    assert psnr(pixels(made), np.asarray(reference)) > 45
