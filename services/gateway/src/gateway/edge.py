"""What HTTP asks of every answer, around the application: request ids, HEAD, and what becomes of an unread body."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from offload_core import logs

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID_HEADER = b"x-request-id"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
# In the scope of a request that was a HEAD: its answer's body is dropped, so that it need not be made.
IS_HEAD = "offload.is_head"


class Edge:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp) -> None:
        """Take the application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        logs.request_id.set(request_id.decode())
        if scope["method"] == "HEAD":
            # Whatever can be got can be asked about; the server leaves the body out.
            scope = {**scope, "method": "GET", IS_HEAD: True}
        is_unread = _has_body(scope)

        async def received() -> Message:
            nonlocal is_unread
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                is_unread = False
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                headers.append((REQUEST_ID_HEADER, request_id))
                if is_unread:
                    # The rest of the body is not waited for (RFC 9112, section 9.6).
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, received, sent)


def _request_id(scope: Scope) -> bytes:
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID_HEADER), b"")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()


def _has_body(scope: Scope) -> bool:
    return any(
        (name == b"content-length" and value.strip() != b"0") or name == b"transfer-encoding"
        for name, value in scope["headers"]
    )
