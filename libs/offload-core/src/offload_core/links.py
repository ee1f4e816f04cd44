"""Links to one output of one task that open without an API key, and end with the output."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time

_TOKEN = re.compile(r"(?P<expires_at>[0-9]{1,12})\.(?P<mac>[A-Za-z0-9_-]{43})")


class LinkError(ValueError):
    """The link's token is not one of ours, or not for this output."""


class LinkExpiredError(LinkError):
    """The link was ours, and its output has had its time."""


def sign(secret: str, task_id: str, output: str, expires_at: int) -> str:
    """Return the token for one output until `expires_at` (seconds since the epoch)."""
    return f"{expires_at}.{_mac(secret, task_id, output, expires_at)}"


def verify(secret: str, task_id: str, output: str, token: str, *, now: float | None = None) -> None:
    """Accept a token, or say why not.

    Raises:
        LinkExpiredError: when its time is over.
        LinkError: when it was not made for this output.

    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise LinkError("this link is not valid")
    expires_at = int(match["expires_at"])
    if not hmac.compare_digest(match["mac"], _mac(secret, task_id, output, expires_at)):
        raise LinkError("this link is not valid")
    if expires_at < (time.time() if now is None else now):
        raise LinkExpiredError("this link has expired")


def _mac(secret: str, task_id: str, output: str, expires_at: int) -> str:
    text = f"{task_id}\n{output}\n{expires_at}"
    digest = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
