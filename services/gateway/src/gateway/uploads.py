"""Uploads: a raw body or a multipart form, passed on chunk by chunk, counted against the limit."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.bodies import received
from gateway.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Request

# Names and values of a form's fields, and what stands around its parts.
FORM_LIMIT_BYTES = 64 * 1024
FILE_FIELD = "file"


class Upload:
    """One upload being received. `fields` is whole once the chunks have been read to their end."""

    def __init__(self, request: Request, limit_bytes: int) -> None:
        """Look at the headers.

        Raises:
            Problem: 415 ``request.media_type`` for what cannot be an image, 413 ``upload.too_large`` for what says so.

        """
        self._request = request
        self._limit_bytes = limit_bytes
        self.fields: dict[str, str] = {}
        media_type, options = parse_options_header(request.headers.get("content-type", "application/octet-stream"))
        self._boundary = options.get(b"boundary") if media_type == b"multipart/form-data" else None
        if self._boundary is None and not (
            media_type.startswith(b"image/") or media_type == b"application/octet-stream"
        ):
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "request.media_type",
                "send the image as the body with its image/… type, or as the field `file` of multipart/form-data",
            )
        allowance = FORM_LIMIT_BYTES if self._boundary is not None else 0
        length = request.headers.get("content-length", "")
        # Other scripts have digits too, and int() takes 4,300 of them: what is not a number is the server's to refuse.
        if length.isascii() and length.isdigit() and int(length[:20]) > limit_bytes + allowance:
            raise self._too_large()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes as they come.

        Raises:
            Problem: 408 ``request.timeout``, 413 ``upload.too_large``, 422 ``upload.empty``, 400 ``request.malformed``.

        """
        size = 0
        source = received(self._request) if self._boundary is None else self._parts(self._boundary)
        async for chunk in source:
            size += len(chunk)
            if size > self._limit_bytes:
                raise self._too_large()
            if chunk:
                yield chunk
        if not size:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "upload.empty", "there is no file, or it is empty")

    async def _parts(self, boundary: bytes) -> AsyncIterator[bytes]:
        form = _Form(self.fields)
        parser = MultipartParser(boundary, form.callbacks)
        try:
            async for chunk in received(self._request):
                parser.write(chunk)
                if form.other_bytes > FORM_LIMIT_BYTES:
                    raise self._too_large()
                for piece in form.take():
                    yield piece
            parser.finalize()
        except FormParserError:
            raise Problem(HTTPStatus.BAD_REQUEST, "request.malformed", "the multipart body cannot be read") from None
        if not form.ended:
            raise Problem(HTTPStatus.BAD_REQUEST, "request.malformed", "the multipart body ends too early")

    def _too_large(self) -> Problem:
        return Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "upload.too_large",
            f"an upload may have {self._limit_bytes:,} bytes",
            limit_bytes=self._limit_bytes,
        )


class _Form:
    """What the parser calls: fields are gathered, the file's pieces are passed on."""

    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = fields
        self._header_name = b""
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._value = bytearray()
        self._pieces: list[bytes] = []
        self.other_bytes = 0
        self.ended = False
        self.callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": lambda: None,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def take(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _begin(self) -> None:
        self._headers, self._header_name, self._value = {}, b"", bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name = data[start:end].lower()
        self.other_bytes += end - start

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._headers[self._header_name] = data[start:end]
        self.other_bytes += end - start

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE_FIELD:
            self._pieces.append(data[start:end])
        else:
            self._value += data[start:end]
            self.other_bytes += end - start

    def _end(self) -> None:
        if self._name != FILE_FIELD:
            self._fields[self._name] = self._value.decode("utf-8", "replace")

    def _finish(self) -> None:
        self.ended = True
