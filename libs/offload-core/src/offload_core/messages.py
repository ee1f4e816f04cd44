"""Celery's messages, written without Celery.

A contract test holds each field against what ``chain(...).apply_async()`` of our own application publishes. Arguments
travel in the body alone: their printed form, which Celery would put into the headers, holds addresses.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery_leases.publish import message_key
from offload_core import keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offload_contracts.contract import Message, TaskContract

HIDDEN = "(hidden)"
# When the message was published, in seconds since the epoch: a worker measures the wait in the queue with it.
PUBLISHED_AT = "published_at"


@dataclass(frozen=True, slots=True)
class ChainStep:
    """One step to be: its contract and its message as it travels."""

    name: str
    queue: str
    arguments: dict[str, Any]

    @classmethod
    def of[M: Message](cls, contract: TaskContract[M, Any], message: M) -> ChainStep:
        """Return the step of a contract and a message of it."""
        return cls(contract.name, contract.queue.value, contract.encode(message))


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message ready to be published."""

    queue: str
    message_key: str
    text: str
    due_ms: int


def envelope(
    task_id: str, steps: Sequence[ChainStep], headers: Mapping[str, Any], *, origin: str, due: datetime | None = None
) -> Envelope:
    """Return the first message of a chain; the later steps travel in its body, as Celery has them.

    `headers` are added to Celery's own: the trace context, and when it was published.
    """
    first = steps[0]
    chain = [
        {
            "task": step.name,
            "args": [step.arguments],
            "kwargs": {},
            "options": {"queue": step.queue, "task_id": keys.step_id(task_id, number), "reply_to": ""},
            "subtask_type": None,
            "immutable": False,
        }
        for number, step in enumerate(steps, 1)
        if number > 1
    ]
    embedded = {"callbacks": None, "errbacks": None, "chain": chain[::-1] or None, "chord": None}
    body = json.dumps([[first.arguments], {}, embedded])
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": first.name,
            "id": task_id,
            "shadow": None,
            "eta": due.astimezone(UTC).isoformat() if due else None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": task_id,
            "parent_id": None,
            "argsrepr": HIDDEN,
            "kwargsrepr": HIDDEN,
            "origin": origin,
            "ignore_result": None,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
            **headers,
        },
        "properties": {
            "correlation_id": task_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": first.queue},
            "priority": 0,
            "body_encoding": "base64",
            # The broker names each delivery anew.
            "delivery_tag": task_id,
        },
    }
    due_ms = round(due.timestamp() * 1000) if due else 0
    return Envelope(first.queue, message_key(task_id), json.dumps(message), due_ms)
