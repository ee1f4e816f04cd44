"""Tasks and dead letters as the API shows them."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gateway.dead_letters import name_of
from offload_core import keys, telemetry

if TYPE_CHECKING:
    from celery_leases.admin import DeadLetter
    from offload_core.records import Ended, Record, StepRecord


def status_url(task_id: str) -> str:
    """Return where a task's state is to be had."""
    return f"/v1/tasks/{task_id}"


def task(record: Record, *, operator: bool) -> dict[str, Any]:
    """Return the task; tracebacks only for operators."""
    failed = next((step for step in record.steps if step.state == "FAILURE"), None)
    last = record.steps[-1]
    return {
        "task_id": record.task_id,
        "kind": record.kind,
        "state": record.state,
        "message": sentence(record),
        "expired": False,
        "created_at": _time(record.created_at),
        "due_at": _time(record.due_at),
        "finished_at": _time(record.finished_at),
        "cancel_requested": record.cancel_requested,
        "user_id": record.user_id,
        "trace_id": record.trace_id,
        "parent_task_id": record.parent_task_id,
        "steps": [_step(step, operator=operator) for step in record.steps],
        "result": last.result if record.state == "SUCCESS" else None,
        "error": _error(failed, operator=operator) if failed else None,
        "redrives": [
            {
                "at": _time(redrive["at"]),
                "step": redrive["step"],
                "reason": redrive["reason"],
                "deliveries": redrive["deliveries"],
                "last_worker": redrive["worker"],
                "died_at": _time(redrive["died_at"]),
            }
            for redrive in record.redrives
        ],
        "links": {
            "self": status_url(record.task_id),
            "outputs": [
                {
                    "name": output["name"],
                    "step": output["step"],
                    "href": f"{status_url(record.task_id)}/outputs/{output['name']}",
                    "media_type": output["media_type"],
                    "size_bytes": output["size_bytes"],
                }
                for output in record.outputs
            ],
        },
    }


def ended_task(ended: Ended) -> dict[str, Any]:
    """Return what is known of a task whose record has expired."""
    outcome = {"SUCCESS": "Done.", "FAILURE": "Failed.", "REVOKED": "Cancelled."}[ended.state]
    return {
        "task_id": ended.task_id,
        "kind": ended.kind,
        "state": ended.state,
        "message": f"{outcome} The details have expired.",
        "expired": True,
        "created_at": _time(ended.created_at),
        "due_at": None,
        "finished_at": _time(ended.finished_at),
        "cancel_requested": False,
        "user_id": None,
        "trace_id": ended.trace_id,
        "parent_task_id": None,
        "steps": [],
        "result": None,
        "error": None,
        "redrives": [],
        "links": {"self": status_url(ended.task_id), "outputs": []},
    }


def sentence(record: Record) -> str:  # noqa: PLR0911 -- one return for each thing that can be said
    """Return the state in one sentence for people."""
    count = len(record.steps)
    current = next((step for step in record.steps if step.state != "SUCCESS"), record.steps[-1])
    where = f"step {current.number} of {count} ({current.name})"
    if record.state == "SUCCESS":
        return "Done." if count == 1 else f"Done: all {count} steps."
    if record.state == "FAILURE":
        failed = next((step for step in record.steps if step.state == "FAILURE"), current)
        reason = (failed.error or {}).get("message", "unknown")
        return f"Failed in step {failed.number} of {count} ({failed.name}): {reason}."
    if record.state == "REVOKED":
        return "Cancelled."
    if record.cancel_requested:
        return f"Will be cancelled at the end of {where}."
    if current.state == "STARTED":
        progress = current.progress
        share = f", {progress['done']:,} of {progress['total']:,}" if progress else ""
        return f"Running {where}{share}."
    if current.state == "RETRY":
        reason = (current.error or {}).get("message", "unknown")
        return f"Waiting to try {where} again: {reason}."
    if record.due_at and current.number == 1:
        return f"Delayed until {_time(record.due_at)}."
    return f"Waiting for {where}."


def dead_letter(letter: DeadLetter, *, whole: bool = False) -> dict[str, Any]:
    """Return a dead letter; its message only when it is asked for `whole`."""
    headers = letter.message.get("headers") or {}
    step = keys.step_of(letter.task_id) if letter.task_id else None
    shown = {
        "id": str(name_of(letter)),
        "queue": letter.queue,
        "task_id": step.task_id if step else None,
        "step": step.number if step else None,
        "task": headers.get("task"),
        "reason": letter.reason,
        "deliveries": letter.deliveries,
        "last_worker": letter.owner,
        "died_at": _time(letter.died_at_ms),
        "reported": letter.reported,
        "trace_id": telemetry.trace_id_of(headers) or None,
        "earlier": [
            {
                "reason": death.reason,
                "deliveries": death.deliveries,
                "last_worker": death.owner,
                "died_at": _time(death.died_at_ms),
                "redriven_at": _time(death.redriven_at_ms),
            }
            for death in letter.earlier
        ],
    }
    if whole:
        shown["message"] = {"headers": headers, "body": _body(letter.message)}
    return shown


def _body(message: dict[str, Any]) -> Any:  # noqa: ANN401 -- whatever was sent
    """Return a message's body decoded, where it is what Celery writes; else as it came."""
    body = message.get("body", "")
    try:
        return json.loads(base64.b64decode(body, validate=True))
    except (ValueError, TypeError):
        return message.get("raw", body)


def _step(step: StepRecord, *, operator: bool) -> dict[str, Any]:
    return {
        "number": step.number,
        "name": step.name,
        "state": step.state,
        "attempts": step.attempt + 1 if step.started_at else 0,
        "deliveries": step.delivery,
        "started_at": _time(step.started_at),
        "ended_at": _time(step.ended_at),
        "retry_at": _time(step.retry_at) if step.state == "RETRY" else None,
        "worker": step.worker,
        "progress": step.progress,
        "error": _error(step, operator=operator),
    }


def _error(step: StepRecord, *, operator: bool) -> dict[str, Any] | None:
    # A step that succeeded after a retry keeps its last error in the record; it is no error of the step any more.
    if step.error is None or step.state == "SUCCESS":
        return None
    shown = {"code": step.error["code"], "message": step.error.get("message"), "step": step.name}
    if "details" in step.error:
        shown["details"] = step.error["details"]
    if operator and "traceback" in step.error:
        shown["traceback"] = step.error["traceback"]
    return shown


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
