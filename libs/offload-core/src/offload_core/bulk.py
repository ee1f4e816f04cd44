"""Bulk operations: what is asked for, and how far it is."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from offload_core.records import integer, text_of
from offload_core.task_store import TaskScript, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offload_core.task_store import Call, Place, TaskStore

Action = Literal["cancel", "redrive", "delete"]
# Which tasks an action is for, where the filter does not say.
STATES: Mapping[Action, tuple[str, ...]] = {
    "cancel": ("PENDING", "STARTED", "RETRY"),
    "redrive": ("FAILURE",),
    "delete": ("SUCCESS", "FAILURE", "REVOKED"),
}
# At once, of all tenants.
RUNNING_LIMIT = 3
# After so long without a sign of life one is not under way any more, as after its worker's task was given up.
SILENT_MS = 600_000
# How long one can be looked at after its end.
KEEP_SECONDS = 604_800

_BEGIN = TaskScript("offload_core/lua/bulk_begin.lua")
_PIECE = TaskScript("offload_core/lua/bulk.lua")


@dataclass(frozen=True, slots=True)
class Bulk:
    """One operation. Its tasks are the `task_ids`, or those that are `wanted`."""

    id: str
    action: Action
    actor: str
    dry_run: bool
    created_at: int
    wanted: Wanted
    task_ids: tuple[str, ...] | None = None
    state: str = "pending"
    matched: int = 0
    done: int = 0
    # Of those that were left alone, why.
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # Where it goes on: a number of ids, or a place in the list.
    place: Any = None
    abort_requested: bool = False
    finished_at: int | None = None

    @classmethod
    def of(cls, bulk_id: str, found: Mapping[bytes, bytes]) -> Bulk | None:
        """Return the operation of a hash in Redis; None where there is none."""
        if not found:
            return None
        text = text_of(found)
        asked: dict[str, Any] = json.loads(text["asked"])
        wanted: dict[str, Any] = asked["wanted"]
        return cls(
            id=bulk_id,
            action=asked["action"],
            actor=asked["actor"],
            dry_run=asked["dry_run"],
            created_at=asked["created_at"],
            wanted=Wanted(**wanted),
            task_ids=tuple(asked["task_ids"]) if asked["task_ids"] is not None else None,
            state=text.get("state", "pending"),
            matched=int(text.get("matched", 0)),
            done=int(text.get("done", 0)),
            skipped={
                name.removeprefix("skipped:"): int(count) for name, count in text.items() if name.startswith("skipped:")
            },
            place=json.loads(text["place"]) if "place" in text else None,
            abort_requested="abort_requested" in text,
            finished_at=integer(text.get("finished_at")),
        )

    def begin(self, prefix: str) -> Call:
        """Note it, unless too many are under way. Answers 1 or 0."""
        asked = {
            "action": self.action, "actor": self.actor, "dry_run": self.dry_run, "created_at": self.created_at,
            "wanted": dataclasses.asdict(self.wanted), "task_ids": self.task_ids,
        }  # fmt: skip
        return _BEGIN.of(
            prefix=prefix, bulk=self.id, fields=["asked", json.dumps(asked)], limit=RUNNING_LIMIT, now=self.created_at,
            silent_ms=SILENT_MS,
        )  # fmt: skip

    def piece(self, store: TaskStore, task_ids: Sequence[str], place: int | Place) -> Call:
        """Do it to some tasks; after these it goes on at the `place`. Answers 1 where it has been aborted."""
        return _PIECE.of(
            prefix=store.prefix, broker_prefix=store.broker_prefix, bulk=self.id, action=self.action,
            dry_run=self.dry_run, task_ids=task_ids, place=json.dumps(place), keep_ms=store.keep_ms,
        )  # fmt: skip
