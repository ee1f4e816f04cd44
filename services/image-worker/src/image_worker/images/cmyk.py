"""The profile of CMYK images that bring none: offset printing on coated paper, as ISO 12647-2 aims at it.

Computed, so that nobody's profile has to be shipped: the Neugebauer equations over the standard's colours of the
sixteen solid overprints, with the standard's tone value increase. Relative to the paper, so that no ink is white.
"""

from __future__ import annotations

import functools
import itertools
import struct
from typing import Final

# ISO 12647-2:2004, table 2 and 3, paper type 1, black backing: CIELAB (D50) of the solids. With black on top there is
# little left to see; those values are black's own.
_BLACK: Final = (16.0, 0.0, 0.0)
_SOLIDS: Final[dict[tuple[int, int, int], tuple[float, float, float]]] = {
    (0, 0, 0): (93.0, 0.0, -3.0),
    (1, 0, 0): (54.0, -36.0, -49.0),
    (0, 1, 0): (46.0, 72.0, -5.0),
    (0, 0, 1): (87.0, -6.0, 90.0),
    (0, 1, 1): (46.0, 67.0, 47.0),
    (1, 0, 1): (49.0, -66.0, 24.0),
    (1, 1, 0): (24.0, 16.0, -45.0),
    (1, 1, 1): (22.0, 0.0, 0.0),
}
# Tone value increase at 50 %, curves A and B of the standard: 13 % for the colours, 16 % for black.
_INCREASE: Final = (0.13, 0.13, 0.13, 0.16)
_D50: Final = (0.9642, 1.0, 0.8249)
_STEPS: Final = 9


@functools.cache
def default_profile() -> bytes:
    """Return the profile, as ICC bytes (version 2.4, a table of 9 steps a channel)."""
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"".join(
        _encoded(_relative_lab(inks))
        for inks in itertools.product(*[[step / (_STEPS - 1) for step in range(_STEPS)]] * 4)
    )
    line = struct.pack(">2H", 0, 65535)
    lut = (
        b"mft2"
        + bytes(4)
        + bytes([4, 3, _STEPS, 0])
        + identity
        + struct.pack(">2H", 2, 2)
        + line * 4
        + table
        + line * 3
    )
    name = b"Offload CMYK, ISO 12647-2 coated"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(1 + 8 + 3 + 67),
        b"cprt": b"text" + bytes(4) + b"No copyright, use freely.\0",
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in _D50)),
        b"A2B0": lut,
    }
    offset = 128 + 4 + 12 * len(tags)
    directory, data = struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        directory += tag + struct.pack(">2I", offset + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    white = struct.pack(">3i", *(round(value * 65536) for value in _D50))
    size = 128 + len(directory) + len(data)
    header = (
        struct.pack(">I", size) + bytes(4) + b"\x02\x40\0\0" + b"prtrCMYKLab " + struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    )
    header += b"acsp" + bytes(4 + 4 + 4 + 4 + 8) + struct.pack(">I", 1) + white
    return header.ljust(128, b"\0") + directory + data


def _relative_lab(inks: tuple[float, ...]) -> tuple[float, float, float]:
    """Return the colour of four tone values (0 to 1), relative to the paper."""
    covered = [tone + 4 * gain * tone * (1 - tone) for tone, gain in zip(inks, _INCREASE, strict=True)]
    mixed = [0.0, 0.0, 0.0]
    for solid in itertools.product((0, 1), repeat=4):
        share = 1.0
        for ink, is_on in zip(covered, solid, strict=True):
            share *= ink if is_on else 1 - ink
        colour = _BLACK if solid[3] else _SOLIDS[solid[0], solid[1], solid[2]]
        for axis, value in enumerate(_xyz(colour)):
            mixed[axis] += share * value
    paper = _xyz(_SOLIDS[0, 0, 0])
    return _lab(tuple(value / white for value, white in zip(mixed, paper, strict=True)))


def _xyz(lab: tuple[float, float, float]) -> tuple[float, ...]:
    level = (lab[0] + 16) / 116
    cubes = level + lab[1] / 500, level, level - lab[2] / 200
    values = (cube**3 if cube > 6 / 29 else 3 * (6 / 29) ** 2 * (cube - 4 / 29) for cube in cubes)
    return tuple(value * white for value, white in zip(values, _D50, strict=True))


def _lab(relative: tuple[float, ...]) -> tuple[float, float, float]:
    roots = [value ** (1 / 3) if value > (6 / 29) ** 3 else value / (3 * (6 / 29) ** 2) + 4 / 29 for value in relative]
    return 116 * roots[1] - 16, 500 * (roots[0] - roots[1]), 200 * (roots[1] - roots[2])


def _encoded(lab: tuple[float, float, float]) -> bytes:
    """Return CIELAB as a version 2 table holds it: 100 is 0xFF00, and the axes a and b begin at -128."""
    level, *axes = lab
    values = [level * 652.8, *((axis + 128) * 256 for axis in axes)]
    return struct.pack(">3H", *(min(max(round(value), 0), 65535) for value in values))
