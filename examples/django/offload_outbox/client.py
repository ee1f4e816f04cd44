"""Offload's API, as far as the outbox needs it."""

from __future__ import annotations

from typing import Any

import httpx
from django.conf import settings


def connect() -> httpx.Client:
    """Return a client of the gateway that `settings` name."""
    key = settings.OFFLOAD_API_KEY
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=settings.OFFLOAD_URL, headers=headers, timeout=10)


class Unavailable(Exception):  # noqa: N818 -- it is no error of anybody's: it is waited for
    """Offload does not take it now; `seconds` is how long to wait before the next try."""

    def __init__(self, seconds: float) -> None:
        """Take how long to wait."""
        super().__init__(f"try again after {seconds:g} s")
        self.seconds = seconds


class Refused(Exception):  # noqa: N818 -- the word that the entry has for it
    """Offload will never take it: the request is wrong. `code` says how."""

    def __init__(self, code: str, detail: str) -> None:
        """Take the problem's code and text."""
        super().__init__(f"{code}: {detail}")
        self.code = code


def post(client: httpx.Client, body: dict[str, Any], key: str) -> str:
    """Post a task; returns its id. Posted again with the same key, it is the same task.

    Raises:
        Unavailable: when it is to be tried again.
        Refused: when it is not.

    """
    try:
        answer = client.post("/v1/tasks", json=body, headers={"Idempotency-Key": key})
    except httpx.TransportError:
        raise Unavailable(1) from None
    if answer.status_code == httpx.codes.ACCEPTED:
        return str(answer.json()["task_id"])
    problem = answer.json() if "json" in answer.headers.get("content-type", "") else {}
    code = str(problem.get("code", answer.status_code))
    # An unknown task type is known once its worker has started.
    is_temporary = answer.status_code in {401, 403, 408, 429} or answer.is_server_error or code == "task_type.unknown"
    if is_temporary:
        raise Unavailable(float(answer.headers.get("retry-after", 2)))
    raise Refused(code, str(problem.get("detail", "")))
