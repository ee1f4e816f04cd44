"""What becomes of a task whose message was buried: it ends as FAILURE, with a code and a text that say why."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics

from offload_core.records import BURIED
from offload_worker.fence import Fence

if TYPE_CHECKING:
    from offload_worker.backend import RecordBackend

logger = logging.getLogger(__name__)

# What people are told, by the broker's reason. Any other is the code of the error that the task was rejected with.
_MESSAGES = {
    "delivery.limit": "the worker died each time it ran this step",
    "contract.unknown": "no worker knows this task",
    "record.missing": "the task has no record",
    "message.undecodable": "the message could not be decoded",
}


def tell(backend: RecordBackend, message: dict[str, Any], reason: str) -> None:
    """End the task of a buried message, and notify its user. The broker calls this until it has returned."""
    celery_id = message.get("headers", {}).get("id")
    if not celery_id:
        logger.error("a message without a task was buried: %s", reason)
        return
    error = _last_error(backend, str(celery_id), reason) or {
        "code": reason,
        "message": _MESSAGES.get(reason, "the message was rejected"),
    }
    metrics.get_meter("offload").create_counter(
        "offload.dead_letters",
        description="Messages that were given up, by reason; a letter told of twice counts twice",
    ).add(1, {"offload.reason": reason})
    # Whatever ran before, the burying has the last word: no delivery of this attempt comes after it.
    last = Fence.of_headers(message["headers"])._replace(delivery=BURIED)
    # As long as the dead letter, which can be redriven.
    keep_ms = backend.settings.dead_letter_retention_seconds * 1000
    backend.fail(str(celery_id), error, last, keep_ms=keep_ms)


def _last_error(backend: RecordBackend, celery_id: str, code: str) -> dict[str, Any] | None:
    """Return the error of a step that was given up after its last retry: it says more than its code."""
    step = backend.step(celery_id)
    record = backend.record(step.task_id)
    if record is None or step.number > len(record.steps):
        return None
    error = record.steps[step.number - 1].error
    return error if error is not None and error.get("code") == code else None
