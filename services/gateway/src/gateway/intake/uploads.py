"""Uploads: a raw body or a multipart form, passed on chunk by chunk, counted against the limit."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header

from gateway.intake.bodies import received, refuse_encoding
from gateway.problems import Problem, invalid_fields
from offload_contracts.images import ImageFormat
from offload_contracts.signatures import HEAD_BYTES, image_format

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Request

# Names and values of a form's fields, and what stands around its parts.
FORM_LIMIT_BYTES = 64 * 1024
MAX_FIELDS = 100
# RFC 2046, section 5.1.1.
MAX_BOUNDARY_LENGTH = 70
FILE_FIELD = "file"


class Upload:
    """One upload being received. `fields`, each with its values, are complete once the chunks have been read."""

    def __init__(self, request: Request, limit_bytes: int) -> None:
        """Look at the headers.

        Raises:
            Problem: 415 ``request.media_type`` for what cannot be an image or is compressed, 413 ``upload.too_large``
                for what says so, 400 ``request.malformed`` for a form without a usable boundary.

        """
        self._request = request
        self._limit_bytes = limit_bytes
        self.fields: dict[str, list[str]] = {}
        refuse_encoding(request)
        content_type = request.headers.get("content-type", "application/octet-stream")
        media_type, options = parse_options_header(content_type)
        media_type = media_type.lower()
        self._boundary = _boundary(options) if media_type == "multipart/form-data" else None
        if self._boundary is None and not (media_type.startswith("image/") or media_type == "application/octet-stream"):
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "request.media_type",
                "send the image as the body with its image/… type, or as the field `file` of multipart/form-data",
            )
        allowance = FORM_LIMIT_BYTES if self._boundary is not None else 0
        length = request.headers.get("content-length", "")
        # Other scripts have digits too, and int() takes 4,300 of them: what is not a number is the server's to refuse.
        declared = int(length[:20]) if length.isascii() and length.isdigit() else None
        if declared is not None and declared > limit_bytes + allowance:
            raise self._too_large()
        # At most so many bytes will come.
        self.expected_bytes = limit_bytes + allowance if declared is None else declared

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes as they come.

        Raises:
            Problem: 408 ``request.timeout``, 413 ``upload.too_large``, 415 ``image.format_unsupported``, 422
                ``upload.empty`` or ``request.invalid``, 400 ``request.malformed``.

        """
        size = 0
        head = b""
        source = received(self._request) if self._boundary is None else self._parts(self._boundary)
        async for chunk in source:
            if len(head) < HEAD_BYTES:
                head += chunk[: HEAD_BYTES - len(head)]
                _refuse_format(head, is_complete=len(head) == HEAD_BYTES)
            size += len(chunk)
            if size > self._limit_bytes:
                raise self._too_large()
            if chunk:
                yield chunk
        if not size:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "upload.empty", "there is no file, or it is empty")
        _refuse_format(head, is_complete=True)

    async def _parts(self, boundary: str) -> AsyncIterator[bytes]:
        parser = PushMultipartParser(boundary, max_segment_count=MAX_FIELDS)
        form = _Form(self.fields)
        try:
            async for chunk in received(self._request):
                for event in parser.parse(chunk):
                    piece = form.take(event)
                    if piece:
                        yield piece
                    if form.other_bytes > FORM_LIMIT_BYTES:
                        raise self._too_large()
            parser.close()
        except ParserLimitReached:
            raise self._too_large() from None
        except MultipartError as error:
            raise _malformed(f"the multipart body cannot be read: {error}") from None

    def _too_large(self) -> Problem:
        return Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "upload.too_large",
            f"an upload may have {self._limit_bytes:,} bytes",
            limit_bytes=self._limit_bytes,
        )


class _Form:
    """Gathers a form's fields from the parser's events, and passes the file's pieces on."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields
        self._name = ""
        self._value = bytearray()
        self._has_file = False
        # Of everything but the file.
        self.other_bytes = 0

    def take(self, event: MultipartSegment | bytes | bytearray | None) -> bytes:
        """Take the beginning of a part, a piece of its content, or its end; returns what belongs to the file."""
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            if self._name != FILE_FIELD:
                self._fields.setdefault(self._name, []).append(_text(self._name, self._value))
        elif self._name == FILE_FIELD:
            return bytes(event)
        else:
            self._value += event
            self.other_bytes += len(event)
        return b""

    def _begin(self, part: MultipartSegment) -> None:
        self._name, self._value = part.name, bytearray()
        self.other_bytes += sum(len(name) + len(value) for name, value in part.headerlist)
        if self._name == FILE_FIELD and self._has_file:
            raise invalid_fields({self._name: "is given more than once"})
        self._has_file = self._has_file or self._name == FILE_FIELD


def _boundary(options: dict[str, str]) -> str:
    boundary = options.get("boundary", "")
    if not 0 < len(boundary) <= MAX_BOUNDARY_LENGTH or not boundary.isascii() or not boundary.isprintable():
        raise _malformed(f"multipart/form-data has a boundary of 1 to {MAX_BOUNDARY_LENGTH} characters")
    return boundary


def _text(name: str, value: bytearray) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid_fields({name: "must be UTF-8"}) from None


def _refuse_format(head: bytes, *, is_complete: bool) -> None:
    """Refuse a file that is an image of a format that we know and do not take."""
    name = image_format(head)
    if name is None or name in set(ImageFormat):
        return
    if name == "heif" and not is_complete:
        return  # an AVIF may name itself further on
    raise Problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "image.format_unsupported",
        f"{name.upper()} images are not supported; send {', '.join(one.upper() for one in ImageFormat)}",
    )


def _malformed(why: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, "request.malformed", why)
