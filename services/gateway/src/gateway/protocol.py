"""uvicorn's HTTP protocol with limits on what one client may cost before the application has looked at its request.

uvicorn itself takes headers of any size and number, waits for them and for slow readers for ever, and closes a
connection under the answer when the request's body is not read to its end.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.problems import MEDIA_TYPE, Problem

if TYPE_CHECKING:
    import asyncio

# As nginx has them by default: four buffers of 8 kB for all headers, 8 kB for the request line.
MAX_HEADER_BYTES = 32 * 1024
MAX_TARGET_BYTES = 8 * 1024
# Apache's default.
MAX_HEADERS = 100
# A client that still sends gets time to notice that it has been answered (RFC 9112, section 9.6): so long in all, and
# as long as it sends so many bytes in so many seconds. Both times are nginx's defaults. One that dribbles is cut off.
LINGER_SECONDS = 30.0
LINGER_PERIOD_SECONDS = 5.0
LINGER_PERIOD_BYTES = 16 * 1024

_TOO_MANY = Problem(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "request.headers_too_large",
    f"a request may have at most {MAX_HEADERS} headers and {MAX_HEADER_BYTES:,} bytes of headers",
)
_TOO_LONG = Problem(
    HTTPStatus.REQUEST_URI_TOO_LONG,
    "request.target_too_long",
    f"path and query may have at most {MAX_TARGET_BYTES:,} bytes",
)
_HOST = Problem(HTTPStatus.BAD_REQUEST, "request.malformed", "a request must have exactly one Host header")
_UNREADABLE = Problem(HTTPStatus.BAD_REQUEST, "request.malformed", "the request is not valid HTTP/1.1")


class _RefusedError(Exception):
    """Raised in a callback of the parser, so that it stops."""


class BoundedProtocol(HttpToolsProtocol):
    """Refuses requests beyond the limits, and ends connections that are beyond their time."""

    # From the connection, or from the first byte of a later request on it.
    header_timeout_seconds: ClassVar[float] = 10.0
    # From the first byte of a request to the last of its answer.
    request_timeout_seconds: ClassVar[float] = 900.0
    # How long a client may take nothing of its answer.
    write_idle_seconds: ClassVar[float] = 30.0

    _head_timer: asyncio.TimerHandle | None = None
    _request_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _linger_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _field_bytes = 0
    _lingering_bytes = 0
    _is_in_head = True
    _has_ended = False
    _refusal: Problem | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the headers."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Parse, unless the connection has had its last answer: then what still comes is dropped."""
        if self._has_ended:
            self._lingering_bytes += len(data)
            return
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > MAX_HEADER_BYTES and not self._has_ended:
            self._refuse(_TOO_LONG if not self.headers and len(self.url) > MAX_TARGET_BYTES else _TOO_MANY)

    def on_message_begin(self) -> None:
        """Begin to count, and to wait unless that has begun with the connection."""
        super().on_message_begin()
        self._is_in_head, self._field_bytes = True, 0
        self._wait_for_head()
        # Of requests that come before the answer to the one before them, the newest counts.
        self._stop(self._request_timer)
        self._request_timer = self.loop.call_later(self.request_timeout_seconds, self.transport.abort)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        super().on_url(url)
        if len(self.url) > MAX_TARGET_BYTES:
            self._stop_parsing(_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        super().on_header(name, value)
        self._field_bytes += len(name) + len(value)
        if len(self.headers) > MAX_HEADERS or self._field_bytes > MAX_HEADER_BYTES:
            self._stop_parsing(_TOO_MANY)

    def on_headers_complete(self) -> None:
        """Stop waiting, and hand over a transport that does not close under a client that still sends."""
        self._is_in_head, self._head_bytes = False, 0
        self._stop(self._head_timer)
        self._head_timer = None
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            self._stop_parsing(_HOST)
        super().on_headers_complete()
        self.cycle.transport = _Closing(self)  # type: ignore[assignment]  # what a cycle uses of one

    def on_message_complete(self) -> None:
        """Count the next request's head from its first byte."""
        self._is_in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End the request's time, and wait for no other request on a connection that has had its last answer."""
        self._stop(self._request_timer)
        super().on_response_complete()
        if self._has_ended:
            self._unset_keepalive_if_required()

    def pause_writing(self) -> None:
        """Begin to wait for a client that takes nothing."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.write_idle_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting."""
        self._stop(self._write_timer)
        super().resume_writing()

    def shutdown(self) -> None:
        """Let requests end by themselves, but for streams of events: their clients go on elsewhere."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and cycle.scope["state"].get("is_endless"):
            self.transport.close()
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting for anything."""
        for timer in (self._head_timer, self._request_timer, self._write_timer, self._linger_timer):
            self._stop(timer)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- uvicorn's signature
        """Answer what the parser, or a limit of ours, has refused."""
        self._refuse(self._refusal or _UNREADABLE)

    def end(self) -> None:
        """End the connection after its last answer. A client that still sends gets a moment to read it."""
        if self._has_ended or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.more_body:
            self._has_ended = True
            self._stop(self._request_timer)
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._linger(self.loop.time() + LINGER_SECONDS)
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps(problem.body()).encode()
        defaults = self.server_state.default_headers
        lines = [STATUS_LINE[problem.status], *(name + b": " + value + b"\r\n" for name, value in defaults)]
        lines += [
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode(),
            body,
        ]
        self.transport.write(b"".join(lines))
        self.cycle = None  # type: ignore[assignment]  # nothing runs for what was refused
        self.end()

    def _stop_parsing(self, problem: Problem) -> None:
        self._refusal = problem
        raise _RefusedError(problem.code)

    def _linger(self, ends_at: float) -> None:
        self._lingering_bytes = 0
        self._linger_timer = self.loop.call_later(LINGER_PERIOD_SECONDS, self._end_or_linger, ends_at)

    def _end_or_linger(self, ends_at: float) -> None:
        if self._lingering_bytes < LINGER_PERIOD_BYTES or self.loop.time() >= ends_at:
            self.transport.abort()
        else:
            self._linger(ends_at)

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.header_timeout_seconds, self.transport.abort)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


class _Closing:
    """A transport as a request sees it: closing it ends the connection by our rule."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 -- the transport's own
        return getattr(self._protocol.transport, name)

    def close(self) -> None:
        self._protocol.end()
