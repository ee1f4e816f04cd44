"""Links to one output of one task, or to the whole task, that open without an API key for some time."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time

# In the place of an output's name: all outputs of the task, and its events.
TASK = "*"
_TOKEN = re.compile(r"(?P<expires_at>[0-9]{1,12})\.(?P<mac>[A-Za-z0-9_-]{43})")


class LinkError(ValueError):
    """The link's token is not one of ours, or not for this output."""


class LinkExpiredError(LinkError):
    """The link was ours, and its output has had its time."""


def sign(secret: str, task_id: str, output: str, expires_at: int) -> str:
    """Return the token for one output until `expires_at` (seconds since the epoch)."""
    return f"{expires_at}.{_mac(secret, task_id, output, expires_at)}"


def verify(secret: str, task_id: str, output: str, token: str, *, now: float | None = None) -> None:
    """Accept a token that was made for an output, or for all of its task, or say why not.

    Raises:
        LinkExpiredError: when its time is over.
        LinkError: when it was made for something else.

    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise LinkError("this link is not valid")
    expires_at = int(match["expires_at"])
    if not any(
        hmac.compare_digest(match["mac"], _mac(secret, task_id, made_for, expires_at)) for made_for in (output, TASK)
    ):
        raise LinkError("this link is not valid")
    if expires_at < (time.time() if now is None else now):
        raise LinkExpiredError("this link has expired")


def _mac(secret: str, task_id: str, output: str, expires_at: int) -> str:
    text = f"{task_id}\n{output}\n{expires_at}"
    digest = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
