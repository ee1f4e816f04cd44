"""Items as they are posted: each is a task, or is rejected for a reason of its own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.intake.bodies import checked, strict_json
from gateway.problems import Problem, invalid_fields
from gateway.tasks import workflows
from gateway.tasks.schemas import TASK
from offload_core.batches import FINGERPRINT_LENGTH, Item, item_id

if TYPE_CHECKING:
    from gateway.auth import Caller
    from gateway.dependencies import Dependencies

KIND = "task"


@dataclass(frozen=True, slots=True)
class Given:
    """An item as a client has sent it."""

    index: int
    value: dict[str, Any]


def of_line(line: bytes) -> Given:
    """Return the item of a line.

    Raises:
        Problem: 422 ``request.invalid`` when it has no index.

    """
    value = strict_json(line)
    if not isinstance(value, dict):
        raise invalid_fields({"body": "must be an object"})
    index = value.pop("index", None)
    if type(index) is not int or not 0 <= index < 2**53:
        raise invalid_fields({"index": "must be a number from 0 on"})
    return Given(index, value)


def prepare(deps: Dependencies, caller: Caller, batch_id: str, given: Given) -> Item:
    """Return an item as it goes into its batch."""
    text = json.dumps(given.value, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LENGTH]
    try:
        asked = checked(text, TASK)
        stages = workflows.stages(asked, deps.catalogue)
        with deps.dispatcher.publishing(
            caller, KIND, stages, asked, task_id=item_id(batch_id, given.index), trace_of_its_own=True,
            retain_ms=deps.settings.output_retention_ms, batch=batch_id,
        ) as task:  # fmt: skip
            return Item(given.index, fingerprint, task)
    except Problem as problem:
        return Item(given.index, fingerprint, problem=json.dumps(shown(problem)))


def shown(problem: Problem) -> dict[str, Any]:
    """Return a problem as the answers about items have it."""
    found = problem.body()
    return {"code": found["code"], "detail": found["detail"], "errors": found.get("errors")}
