"""Events: what happens to tasks, as the scripts write it to streams and as subscribers get it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Two numbers of 64 bits and a dash.
MAX_ID_LENGTH = 41
# The last event of a task, unless it is redriven.
ENDS = frozenset({"task.succeeded", "task.failed", "task.cancelled"})
# The last event of a batch.
BATCH_ENDS = frozenset({"batch.completed"})
# Every type, and when it comes.
TYPES = {
    "task.accepted": "The task was accepted.",
    "task.started": "A worker has begun with its first step.",
    "task.progressed": "A step has told how far it is; at most one in 500 ms.",
    "task.retrying": "A step has failed and is tried again at `retry_at`.",
    "task.succeeded": "The task has ended well.",
    "task.failed": "The task has failed: `reason` is the code of the error.",
    "task.cancelled": "The task was cancelled.",
    "task.dead_lettered": "A step's message was given up; `task.failed` follows.",
    "task.redriven": "A dead letter was brought back: the task goes on.",
    "step.started": "A worker has begun with a step, or begins again.",
    "step.succeeded": "A step has ended well.",
    "step.failed": "A step has failed for good.",
    "batch.completed": "All tasks of a batch have ended.",
    "schedule.missed": "A schedule has missed occurrences: `missed` is how many, `until` the time of the last one.",
    "queue.paused": "An operator has paused a queue: `note` is why, `until` is when it ends by itself.",
    "queue.resumed": "A paused queue delivers its messages again.",
    "webhook.disabled": "An endpoint gets nothing any more: `reason` is why.",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its place in its stream (``milliseconds-number``), its type, and what it says."""

    id: str
    type: str
    data: dict[str, Any]

    @classmethod
    def of(cls, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Event | None:
        """Return the event of a stream's entry; None for one that a release before 0.3 has written."""
        if b"step" in fields:
            return None
        data: dict[str, Any] = json.loads(fields[b"data"])
        return cls(entry_id.decode(), fields[b"type"].decode(), data)

    def body(self) -> dict[str, Any]:
        """Return it as subscribers get it: ``type``, ``timestamp``, ``data``."""
        data = dict(self.data)
        if "retry_at_ms" in data:
            data["retry_at"] = rfc3339(int(data.pop("retry_at_ms")))
        if "until_ms" in data:
            data["until"] = rfc3339(int(data.pop("until_ms")))
        return {"type": self.type, "timestamp": rfc3339(int(self.id.partition("-")[0])), "data": data}


def position(event_id: str) -> tuple[int, int]:
    """Return an event's place as numbers, which compare.

    Raises:
        ValueError: where it is none.

    """
    milliseconds, dash, number = event_id.partition("-")
    if not (milliseconds.isascii() and milliseconds.isdecimal() and len(event_id) <= MAX_ID_LENGTH):
        raise ValueError("an event's id is like 1764000000000-0")
    if dash and not (number.isascii() and number.isdecimal()):
        raise ValueError("an event's id is like 1764000000000-0")
    return int(milliseconds), int(number or 0)


def rfc3339(milliseconds: int) -> str:
    """Return a time, given since the epoch, in RFC 3339 and UTC."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
