"""Batches: tasks that are counted together, and what follows when all of them have ended."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from offload_core.records import integer, text_of
from offload_core.task_store import TaskScript

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_leases.scripts import Argument
    from offload_core.records import NewTask
    from offload_core.task_store import Call, Limits, TaskStore

# Hexadecimal digits.
FINGERPRINT_LENGTH = 16
# So long after its creation a batch is closed that has not got all of its items.
OPEN_MS = 86_400_000
# Behind the fingerprint of an item that was rejected comes this, and its problem.
REJECTED = "!"

_CREATE = TaskScript("offload_core/lua/batch_create.lua")
_ADD = TaskScript("offload_core/lua/batch_add.lua")
_CANCEL = TaskScript("offload_core/lua/batch_cancel.lua")
_ATTEND = TaskScript("offload_core/lua/batch_attend.lua")

Name = Literal["on_complete", "on_success", "on_first_failure"]
NAMES: tuple[Name, ...] = ("on_complete", "on_success", "on_first_failure")


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A task that is published when a batch comes to its end, or to its first failure; its times count from then."""

    task: NewTask
    delay_ms: int = 0
    # Not before this time (ms since the epoch).
    run_at: int = 0
    # Not started so long after it is due, it is not run at all. 0: it never expires.
    expires_in_ms: int = 0

    def as_field(self) -> dict[str, Any]:
        """Return it as the script that publishes it reads it."""
        return {
            "task_id": self.task.task_id, "count": len(self.task.steps), "fields": self.task.fields(),
            "messages": self.task.messages,
            "delay_ms": self.delay_ms, "run_at": self.run_at, "expires_in_ms": self.expires_in_ms,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch that is to be created."""

    id: str
    owner: str
    created_at: int
    expected: int
    # Whether its tasks wait until all of them are there.
    is_held: bool = False
    # Whether it comes in one request, or not at all.
    is_whole: bool = False
    open_ms: int = OPEN_MS
    follow_ups: Mapping[Name, FollowUp] = field(default_factory=dict)

    def create(self, store: TaskStore) -> Call:
        """Note it, unless it is there already."""
        fields = {
            "owner": self.owner, "created_at": str(self.created_at), "expected": str(self.expected), "have": "0",
            "start": "sealed" if self.is_held else "now",
        }  # fmt: skip
        if self.follow_ups:
            fields["follow_ups"] = json.dumps({name: one.as_field() for name, one in self.follow_ups.items()})
        if self.is_whole:
            fields["is_whole"] = "1"
        closes_at = self.created_at + self.open_ms
        return _CREATE.of(prefix=store.prefix, batch=self.id, fields=fields, closes_at=closes_at)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it stands. Times are milliseconds since the epoch."""

    id: str
    owner: str
    created_at: int
    expected: int
    is_held: bool
    # Its items: all that are known, and those that were rejected; tasks that have ended, by state.
    have: int
    rejected: int
    ended: Mapping[str, int]
    sealed_at: int | None
    completed_at: int | None
    # How it ends or has ended: `completed`, `incomplete` (not all items came in time) or `cancelled`.
    outcome: str
    # The tasks that have followed, by the name of what they follow.
    follow_ups: Mapping[Name, str]

    @classmethod
    def of(cls, batch_id: str, found: Mapping[bytes, bytes]) -> Batch | None:
        """Return the batch of a hash in Redis; None where there is none."""
        text = text_of(found)
        if "owner" not in text:
            return None
        return cls(
            id=batch_id,
            owner=text["owner"],
            created_at=int(text["created_at"]),
            expected=int(text["expected"]),
            is_held=text["start"] == "sealed",
            have=int(text["have"]),
            rejected=int(text.get("rejected", 0)),
            ended={state: int(text.get(state, 0)) for state in ("SUCCESS", "FAILURE", "REVOKED")},
            sealed_at=integer(text.get("sealed_at")),
            completed_at=integer(text.get("completed_at")),
            outcome=text.get("outcome", "completed"),
            follow_ups={name: text[name] for name in NAMES if name in text},
        )

    @property
    def state(self) -> str:
        """Return ``open`` while items may come, then ``running``, then its `outcome`."""
        if self.completed_at is not None:
            return self.outcome
        return "running" if self.sealed_at is not None else "open"

    @property
    def open(self) -> int:
        """How many of its tasks have not ended."""
        return self.have - self.rejected - sum(self.ended.values())


def item_id(batch_id: str, index: int) -> str:
    """Return the task id of an item."""
    return f"{batch_id}-{index}"


@dataclass(frozen=True, slots=True)
class Item:
    """One item: a task, or the problem (JSON) for which it is rejected."""

    index: int
    fingerprint: str
    task: NewTask | None = None
    problem: str = ""

    def words(self) -> list[Argument]:
        """Return it as the script takes it."""
        head: list[Argument] = [self.index, self.fingerprint, self.problem]
        if self.task is None:
            return head
        messages, fields = self.task.messages, self.task.fields()
        return [
            *head, self.task.envelopes[0].due_ms, len(self.task.steps), self.task.expires_at or 0,
            len(messages), *(part for one in messages for part in one), len(fields), *fields,
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Added:
    """What became of some items: of each `accepted`, `known`, `conflict`, or the problem for which it is rejected."""

    # Why it stopped before the last one: `missing`, `sealed`, `full`, `tenant`, `memory`, `rate`; or ``""``.
    why: str
    # How many wait, or the milliseconds to wait, and in which queue.
    subject: int
    queue: str
    have: int
    is_sealed: bool
    outcomes: tuple[str, ...]

    @classmethod
    def of(cls, answer: Sequence[Any]) -> Added:
        """Return what `add` has answered."""
        why, subject, queue, have, is_sealed, *outcomes = answer
        return cls(
            why.decode(), subject, queue.decode(), have, bool(is_sealed), tuple(one.decode() for one in outcomes)
        )


def add(
    store: TaskStore, batch_id: str, owner: str, items: Sequence[Item], limits: Limits, *, may_refuse: bool = True
) -> Call:
    """Add items; `Added` reads the answer. Unless it `may_refuse`, none is refused for a reason that passes."""
    return _ADD(
        store.prefix, store.broker_prefix, batch_id,
        limits.waiting if may_refuse else -1, limits.delayed, int(limits.is_nearly_full),
        *limits.words(store.prefix, owner),
        len(items), *(word for item in items for word in item.words()),
    )  # fmt: skip


def cancel(store: TaskStore, batch_id: str) -> Call:
    """Close a batch and have what is open of it cancelled. Answers `missing`, `finished` or `cancelled`."""
    return _CANCEL.of(prefix=store.prefix, batch=batch_id)


def attend(store: TaskStore, limit: int, batch_id: str | None = None) -> Call:
    """Go on with this batch, or with any that is due, with so many tasks at most. Answers 0 when there is none."""
    return _ATTEND.of(
        prefix=store.prefix, broker_prefix=store.broker_prefix, keep_ms=store.keep_ms, limit=limit, batch=batch_id
    )
