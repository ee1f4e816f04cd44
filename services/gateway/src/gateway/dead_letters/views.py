"""Dead letters as the API shows them."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING, Any

from gateway.dead_letters.service import name_of
from gateway.timestamps import rfc3339
from offload_core import telemetry
from offload_core.messages import PRIVATE
from offload_core.private import redacted

if TYPE_CHECKING:
    from celery_leases.admin import DeadLetter
    from offload_core.keys import Step


def dead_letter(letter: DeadLetter, step: Step | None, *, full: bool = False) -> dict[str, Any]:
    """Return a dead letter, of this step, as the API shows it; its message only when it is asked for in `full`."""
    headers = letter.message.get("headers") or {}
    summary = {
        "id": str(name_of(letter)),
        "queue": letter.queue,
        "task_id": step.task_id if step else None,
        "step": step.number if step else None,
        "task": headers.get("task"),
        "reason": letter.reason,
        "deliveries": letter.deliveries,
        "last_worker": letter.owner,
        "died_at": rfc3339(letter.died_at_ms),
        "reported": letter.reported,
        "trace_id": telemetry.trace_id_of(headers) or None,
        "earlier": [
            {
                "reason": death.reason,
                "deliveries": death.deliveries,
                "last_worker": death.owner,
                "died_at": rfc3339(death.died_at_ms),
                "redriven_at": rfc3339(death.redriven_at_ms),
            }
            for death in letter.earlier
        ],
    }
    if full:
        body = _body(letter.message)
        with contextlib.suppress(IndexError, KeyError, TypeError):
            body[0][-1] = redacted(body[0][-1], headers.get(PRIVATE) or ())
        summary["message"] = {"headers": headers, "body": body}
    return summary


def _body(message: dict[str, Any]) -> Any:  # noqa: ANN401 -- whatever was sent
    """Return a message's body decoded, where it is what Celery writes; else as it came."""
    body = message.get("body", "")
    try:
        return json.loads(base64.b64decode(body, validate=True))
    except (ValueError, TypeError):
        return message.get("raw", body)
