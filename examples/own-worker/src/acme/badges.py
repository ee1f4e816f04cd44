"""Badges as PNG, as a pure function."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont


def draw(name: str, side: int) -> bytes:
    """Return a square PNG with the name in its middle."""
    image = Image.new("RGB", (side, side), "#2f6f8f")
    drawing = ImageDraw.Draw(image)
    font = ImageFont.load_default(side / 8)
    drawing.text((side / 2, side / 2), name, fill="white", anchor="mm", font=font)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
