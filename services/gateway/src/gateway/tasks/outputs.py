"""Files that tasks have made, as HTTP serves files: ETag, 304, one range, HEAD."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi.responses import Response, StreamingResponse

from gateway.edge import IS_HEAD
from gateway.problems import Problem
from offload_contracts.media_types import LABEL, media_type_of
from offload_core import blobs

if TYPE_CHECKING:
    from fastapi import Request

    from offload_core.blobs import BlobStore

NAME = re.compile(rf"{LABEL.pattern}-(?P<sha256>[0-9a-f]{{64}})\.(?P<extension>[a-z0-9]{{1,10}})")
# What a browser may show in this origin. Anything else is a download: it could hold a script.
SHOWN = frozenset({
    "image/jpeg", "image/png", "image/webp", "image/gif", "image/avif", "application/pdf", "text/plain", "text/csv",
    "application/json",
})  # fmt: skip
# One range of bytes: first-last, first-, or -length (RFC 9110, section 14.1.2). Anything else is answered with all.
_RANGE = re.compile(r"bytes=(?:(?P<first>\d{1,15})-(?P<last>\d{0,15})|-(?P<length>\d{1,15}))")


async def respond(request: Request, store: BlobStore, task_id: str, match: re.Match[str]) -> Response:
    """Return a file, or the part of it that is asked for, or only that it has not changed.

    Raises:
        Problem: 416 ``output.range`` when no byte is within the range.
        BlobNotFoundError: when there is no such file.
        BlobError: when the store does not answer.

    """
    name = match[0]
    key = f"{blobs.OUTPUTS}{task_id}/{name}"
    # Named by content: the bytes under a name never change, and its digest is its tag.
    tag = f'"{match["sha256"]}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=86400, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    is_unchanged = _matches(request.headers.get("if-none-match"), tag)
    is_head = IS_HEAD in request.scope
    media_type = media_type_of(match["extension"])
    shown = "inline" if media_type in SHOWN else "attachment"
    disposition = {"Content-Disposition": f'{shown}; filename="{name}"'}
    if not (is_unchanged or is_head or "range" in request.headers):
        # What nearly every client asks for: one request to the store.
        size, chunks = await store.read(key)
        headers |= disposition | {"Content-Length": str(size)}
        return StreamingResponse(chunks, media_type=media_type, headers=headers)
    size = await store.size(key)
    if is_unchanged:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers |= disposition
    if is_head:
        return Response(headers=headers | {"Content-Length": str(size)}, media_type=media_type)
    part = _part(request, tag, size)
    if part is None:
        _, chunks = await store.read(key)
        headers["Content-Length"] = str(size)
        return StreamingResponse(chunks, media_type=media_type, headers=headers)
    start, end = part
    headers |= {"Content-Length": str(end - start), "Content-Range": f"bytes {start}-{end - 1}/{size}"}
    _, chunks = await store.read(key, part)
    return StreamingResponse(chunks, HTTPStatus.PARTIAL_CONTENT, headers, media_type)


def _matches(condition: str | None, tag: str) -> bool:
    """Return whether a condition names the tag; weak tags compare like strong ones (RFC 9110, section 13.1.2)."""
    if condition is None:
        return False
    return any(one.strip().removeprefix("W/") in {tag, "*"} for one in condition.split(","))


def _part(request: Request, tag: str, size: int) -> tuple[int, int] | None:
    """Return the first byte of the range that is asked for and the one behind its last; None for all of it."""
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if match is None or request.headers.get("if-range", tag) != tag:
        return None
    if match["length"] is not None:
        start, end = max(size - int(match["length"]), 0), size
    else:
        start, end = int(match["first"]), size
        if match["last"]:
            if int(match["last"]) < start:
                return None  # no range at all: to be ignored
            end = min(int(match["last"]) + 1, size)
    if start >= end:
        raise Problem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "output.range",
            f"the file has {size:,} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end
