"""Colours: every image becomes sRGB, grey or not, with alpha or without."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from image_worker.images.cmyk import default_profile

_SRGB = ImageCms.createProfile("sRGB")
_SRGB_GAMMA = 1 / 2.2
# PNG 1.2, section 12.5: closer than this, two gammas are one.
_GAMMA_TOLERANCE = 0.05
_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}
_PLAIN = {"La": "LA", "RGBa": "RGBA"}
_OPAQUE = (255, 255)
# The colour space that a profile must have for each mode without its alpha (ICC.1:2022, table 19).
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}


def mixable(image: Image.Image) -> Image.Image:
    """Return the image in a mode in which neighbouring pixels can be mixed: L, RGB, CMYK, or premultiplied La, RGBa.

    An alpha channel that is opaque everywhere is dropped.
    """
    mode = image.mode
    if mode.startswith("I"):
        image = _eight_bits(image)
    elif mode == "1":
        image = image.convert("L")
    elif mode in {"P", "PA"}:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif mode not in {"L", "LA", "RGB", "RGBA", "CMYK"}:
        image = image.convert("RGB")
    if image.mode in _PREMULTIPLIED:
        if image.getchannel("A").getextrema() == _OPAQUE:
            return image.convert(image.mode[:-1])
        return image.convert(_PREMULTIPLIED[image.mode])
    return image


def to_srgb(image: Image.Image, profile: bytes | None, gamma: float | None = None) -> Image.Image:
    """Return the image in L, LA, RGB or RGBA, its colours those that its profile (or the gamma of a PNG) meant.

    A profile that cannot be read, or is of another colour space than the pixels, is ignored. CMYK without a profile is
    taken for offset printing on coated paper (see `cmyk`).
    """
    image = image.convert(_PLAIN[image.mode]) if image.mode in _PLAIN else image
    alpha = image.getchannel("A") if image.mode in _PREMULTIPLIED else None
    colours = image.convert(image.mode[:-1]) if alpha is not None else image
    converted = _converted(colours, profile)
    if converted is None and colours.mode == "CMYK":
        converted = _converted(colours, default_profile()) or colours.convert("RGB")
    if converted is None and gamma is not None and profile is None:
        converted = _with_gamma(colours, gamma)
    if converted is None:
        image.info = {}
        return image
    if alpha is not None:
        converted.putalpha(alpha)
    converted.info = {}
    return converted


def palette_to_srgb(image: Image.Image, profile: bytes | None, gamma: float | None) -> Image.Image:
    """Return a palette image with the colours of its palette converted, and its pixels as they were."""
    transparency = image.info.get("transparency")
    if profile is not None or gamma is not None:
        palette = image.getpalette("RGB") or []
        row = Image.frombytes("RGB", (len(palette) // 3, 1), bytes(palette))
        image.putpalette(to_srgb(row, profile, gamma).tobytes(), "RGB")
    image.info = {} if transparency is None else {"transparency": transparency}
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return 16 bits of grey as 8: scaled, where Pillow's own conversion would cut at 255."""
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values * 255 + 32_767) // 65_535).astype(np.uint8))


def _converted(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    """Return the image in sRGB, or None where the profile says nothing about these pixels."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES.get(image.mode):
            return None
        # Relative colorimetric with black point compensation: what browsers do, and lossless for what sRGB can show.
        transform = ImageCms.buildTransform(
            source,
            _SRGB,
            image.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        # Only the profile has been looked at so far: no pixel is lost with it.
        return None
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:
        return None
    return converted.getchannel("G") if image.mode == "L" else converted


def _with_gamma(image: Image.Image, gamma: float) -> Image.Image | None:
    """Return the image with a PNG's own gamma replaced by sRGB's; None where they are the same."""
    if gamma <= 0 or abs(gamma / _SRGB_GAMMA - 1) < _GAMMA_TOLERANCE:
        return None
    exponent = _SRGB_GAMMA / gamma
    table = [round(255 * (value / 255) ** exponent) for value in range(256)]
    return image.point(table * len(image.getbands()))
