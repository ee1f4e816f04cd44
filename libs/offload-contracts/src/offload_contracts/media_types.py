"""Media types of outputs, and the extensions of their names: the same everywhere, whatever the machine knows."""

from __future__ import annotations

import mimetypes
import re

# What stands before the digest in an output's name.
LABEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
OTHER = "application/octet-stream"
_OTHER_EXTENSION = "bin"
# Those that the standard library lacks, or of which it names another extension first.
_OURS = {
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/avif": "avif",
    "text/plain": "txt",
    "application/x-ndjson": "ndjson",
    "application/vnd.apache.parquet": "parquet",
    "application/zip": "zip",
}
# Without the machine's own files.
_TABLE = mimetypes.MimeTypes()


def extension_of(media_type: str) -> str:
    """Return the extension of a media type, without a dot: ``bin`` for one that is not known."""
    plain = media_type.partition(";")[0].strip().lower()
    found = _OURS.get(plain) or (_TABLE.guess_extension(plain) or "").lstrip(".")
    return found or _OTHER_EXTENSION


def media_type_of(extension: str) -> str:
    """Return the media type of an extension without a dot."""
    for media_type, ours in _OURS.items():
        if ours == extension:
            return media_type
    return _TABLE.guess_type(f"file.{extension}")[0] or OTHER
