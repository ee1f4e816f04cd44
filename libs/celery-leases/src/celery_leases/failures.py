"""The default answer to a dead letter: its task's result becomes FAILURE, as Celery would store it."""

from __future__ import annotations

from typing import Any

from celery import current_app
from celery.app.task import Context


class DeadLetterError(Exception):
    """The message was given up: it is among the dead letters, from where it can be redriven."""


def store_failure(message: dict[str, Any], reason: str) -> None:
    """Store FAILURE for the task of a dead letter, and call its error callbacks."""
    headers = message.get("headers") or {}
    task_id = headers.get("id")
    if not task_id:
        return
    request = Context(headers, errbacks=None, chord=None, ignore_result=headers.get("ignore_result", False))
    current_app.backend.mark_as_failure(task_id, DeadLetterError(reason), request=request)
