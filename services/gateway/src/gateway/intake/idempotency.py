"""The key by which a request is sent again, and what makes two requests the same."""

from __future__ import annotations

import hashlib
import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from gateway.intake.fields import LATER_OPTIONS
from gateway.problems import Problem

if TYPE_CHECKING:
    from pydantic import BaseModel
    from starlette.datastructures import Headers

MAX_LENGTH = 255


def key_of(headers: Headers) -> str | None:
    """Return the request's idempotency key, if it has one.

    Raises:
        Problem: 400 ``idempotency.invalid`` when it is empty, too long, not printable ASCII, or given twice.

    """
    given = headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1:
        raise Problem(HTTPStatus.BAD_REQUEST, "idempotency.invalid", "send one Idempotency-Key")
    key = given[0]
    if not 0 < len(key) <= MAX_LENGTH or not key.isascii() or not key.isprintable():
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            "idempotency.invalid",
            f"an Idempotency-Key has 1 to {MAX_LENGTH} printable ASCII characters",
        )
    return key


def fingerprint(method: str, path: str, options: BaseModel, sha256: str = "") -> str:
    """Return what makes two requests the same: method, path, what was asked for, and the file's own digest.

    What was asked for, not how: the order of members, a default that is written out and ``010`` for 10 change nothing.
    """
    asked = options.model_dump(mode="json")
    # A request that was sent before an upgrade, and again after it, is the same.
    asked = {name: value for name, value in asked.items() if name not in LATER_OPTIONS or value not in (None, [])}
    text = json.dumps([method, path, asked, sha256], separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
