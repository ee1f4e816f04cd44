"""How a failing codec becomes an error with a stable code."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from offload_core.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """Turn whatever a decoder raises into ``image.truncated`` or ``image.broken``.

    Decoders raise many types on malformed files (OSError, SyntaxError, TypeError, struct.error, ...), so none is left
    out. Nothing is swallowed: the caller never gets pixels from a decoder that has raised.
    """
    try:
        yield
    except (PermanentError, MemoryError):
        raise
    except Exception as error:
        if "truncated" in str(error).lower():
            raise PermanentError("image.truncated", "the image ends too early") from error
        raise PermanentError("image.broken", "the image cannot be decoded") from error


@contextlib.contextmanager
def encoding() -> Iterator[None]:
    """Turn whatever the transformation or an encoder raises into ``image.not_encodable``."""
    try:
        yield
    except (PermanentError, MemoryError):
        raise
    except Exception as error:
        raise PermanentError("image.not_encodable", "the result cannot be encoded in this format") from error


def truncated() -> PermanentError:
    """Return the error of a file that ends before its pixels do."""
    return PermanentError("image.truncated", "the image ends too early")


def broken(why: str) -> PermanentError:
    """Return the error of a damaged file."""
    return PermanentError("image.broken", f"the image cannot be decoded: {why}")


def too_large(why: str) -> PermanentError:
    """Return the error of an image beyond a limit."""
    return PermanentError("image.too_large", why)
