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

    from pydantic import BaseModel

    from offload_contracts.contract import TaskContract

HIDDEN = "(hidden)"
# When the message was published, in seconds since the epoch: a worker measures the wait in the queue with it.
PUBLISHED_AT = "published_at"


# JSON pointers into a step's message that nobody is shown.
PRIVATE = "private"
# Which version of its task type a message was checked against: see `offload_core.catalogue`.
TASK_TYPE_VERSION = "task_type_version"


@dataclass(frozen=True, slots=True)
class NewStep:
    """One step to be: its task type and its message as it travels."""

    name: str
    queue: str
    arguments: dict[str, Any]
    # Of the task type, where it was taken from the catalogue.
    version: str = ""

    @classmethod
    def of[M: BaseModel](cls, contract: TaskContract[M, Any], message: M) -> NewStep:
        """Return the step of a contract and a message of it."""
        return cls(contract.name, str(contract.queue), contract.encode(message))


# One step, or branches that run at once. A task has one or more.
Stage = tuple[NewStep, ...]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message ready to be published."""

    queue: str
    message_key: str
    text: str
    due_ms: int


def envelopes(
    task_id: str, stages: Sequence[Stage], headers: Mapping[str, Any], *, origin: str, due: datetime | None = None
) -> tuple[Envelope, ...]:
    """Return the messages of the first stage. The record holds those of the later ones.

    `headers` are added to Celery's own: the trace context, and when it was published. Where no stage has branches the
    later steps travel in the body too, as Celery has chains: a worker of 0.2 publishes them by that.
    """
    chain = [step for stage in stages for step in stage] if all(len(stage) == 1 for stage in stages) else []
    return tuple(
        _envelope(task_id, number, step, chain, headers, origin, due) for number, step in enumerate(stages[0], 1)
    )


def _envelope(
    task_id: str,
    number: int,
    first: NewStep,
    steps: Sequence[NewStep],
    headers: Mapping[str, Any],
    origin: str,
    due: datetime | None,
) -> Envelope:
    celery_id = keys.step_id(task_id, number)
    chain = [
        {
            "task": step.name,
            "args": [step.arguments],
            "kwargs": {},
            "options": {"queue": step.queue, "task_id": keys.step_id(task_id, later), "reply_to": ""},
            "subtask_type": None,
            "immutable": False,
        }
        for later, step in enumerate(steps, 1)
        if later > 1
    ]
    version = {TASK_TYPE_VERSION: first.version} if first.version else {}
    embedded = {"callbacks": None, "errbacks": None, "chain": chain[::-1] or None, "chord": None}
    body = json.dumps([[first.arguments], {}, embedded])
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": first.name,
            "id": celery_id,
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
            **version,
        },
        "properties": {
            "correlation_id": celery_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": first.queue},
            "priority": 0,
            "body_encoding": "base64",
            # The broker names each delivery anew.
            "delivery_tag": celery_id,
        },
    }
    due_ms = round(due.timestamp() * 1000) if due else 0
    return Envelope(first.queue, message_key(celery_id), json.dumps(message), due_ms)
