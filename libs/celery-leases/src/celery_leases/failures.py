"""The default answer to a dead letter: its task fails, with all that Celery does then."""

from __future__ import annotations

import base64
import logging
from typing import Any

from celery import current_app, states
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from kombu import compression, serialization

logger = logging.getLogger(__name__)


class DeadLetterError(Exception):
    """The message was given up: it is among the dead letters, from where it can be redriven."""


def store_failure(message: dict[str, Any], reason: str) -> None:
    """Store FAILURE for the task of a dead letter, fail its chord and its chain, and call its error callbacks.

    A task that has ended keeps its result: its message may be here because the worker died before the
    acknowledgement, or because `task_acks_on_failure_or_timeout` is off.
    """
    headers, backend = message.get("headers"), current_app.backend
    # What could not be made a task of has no result that anybody waits for.
    task_id = headers.get("id") if isinstance(headers, dict) else None
    if not headers or not isinstance(task_id, str):
        return
    has_results = not isinstance(backend, DisabledBackend)
    if has_results and backend.get_state(task_id) in states.READY_STATES:
        return
    _, _, embedded = body_of(message)
    request = Context(
        headers,
        delivery_info={},
        errbacks=embedded.get("errbacks"),
        chain=embedded.get("chain"),
        chord=embedded.get("chord"),
    )
    backend.mark_as_failure(task_id, DeadLetterError(reason), request=request, store_result=has_results)


def body_of(message: dict[str, Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Return a task's positional and keyword arguments, and what Celery's protocol keeps beside them.

    All of them are empty when the body cannot be decoded.
    """
    try:
        body: Any = message["body"]
        if message["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        if method := message["headers"].get("compression"):
            body = compression.decompress(body, method)
        args, kwargs, embedded = serialization.loads(
            body,
            message["content-type"],
            message["content-encoding"],
            accept=serialization.prepare_accept_content(current_app.conf.accept_content),
        )
    except Exception as error:  # noqa: BLE001 -- any serializer, any damage: it may be why the message is dead
        logger.warning("the body of a message cannot be read: %r", error)
        return [], {}, {}
    return list(args), dict(kwargs), embedded if isinstance(embedded, dict) else {}
