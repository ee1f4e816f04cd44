"""Tasks as the API shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.timestamps import rfc3339
from offload_core.records import Ended

if TYPE_CHECKING:
    from offload_core.records import Record, StepRecord


def status_url(task_id: str) -> str:
    """Return where a task's state is to be had."""
    return f"/v1/tasks/{task_id}"


def task(found: Record | Ended, *, operator: bool) -> dict[str, Any]:
    """Return a task, or what is left of it; tracebacks only for operators."""
    return _ended(found) if isinstance(found, Ended) else _full(found, operator=operator)


def _full(record: Record, *, operator: bool) -> dict[str, Any]:
    failed = next((step for step in record.steps if step.state == "FAILURE"), None)
    results = [step.result for step in record.last_stage]
    return {
        "task_id": record.task_id,
        "kind": record.kind,
        "state": record.state,
        "message": summary(record),
        "reason": _reason(record),
        "expired": False,
        "created_at": rfc3339(record.created_at),
        "due_at": rfc3339(record.due_at),
        "finished_at": rfc3339(record.finished_at),
        "erased_at": rfc3339(record.erased_at),
        "expires_at": rfc3339(record.expires_at),
        "tags": list(record.tags),
        "metadata": record.metadata,
        "cancel_requested": record.cancel_requested,
        "user_id": record.user_id,
        "trace_id": record.trace_id,
        "parent_task_id": record.parent_task_id,
        "batch_id": record.batch,
        "schedule": record.schedule,
        "steps": [_step(step, operator=operator) for step in record.steps],
        "result": (results[0] if len(results) == 1 else results) if record.state == "SUCCESS" else None,
        "error": _error(failed, operator=operator) if failed else None,
        "redrives": [
            {
                "at": rfc3339(redrive["at"]),
                "step": redrive["step"],
                "reason": redrive["reason"],
                "deliveries": redrive["deliveries"],
                "last_worker": redrive["worker"],
                "died_at": rfc3339(redrive["died_at"]),
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


def _ended(ended: Ended) -> dict[str, Any]:
    # Its record has expired.
    outcome = {"SUCCESS": "Done.", "FAILURE": "Failed.", "REVOKED": "Cancelled."}[ended.state]
    return {
        "task_id": ended.task_id,
        "kind": ended.kind,
        "state": ended.state,
        "message": f"{outcome} The details have expired.",
        "reason": None,
        "expired": True,
        "created_at": rfc3339(ended.created_at),
        "due_at": None,
        "finished_at": rfc3339(ended.finished_at),
        "erased_at": None,
        "expires_at": None,
        "tags": [],
        "metadata": None,
        "cancel_requested": False,
        "user_id": None,
        "trace_id": ended.trace_id,
        "parent_task_id": None,
        "batch_id": None,
        "schedule": None,
        "steps": [],
        "result": None,
        "error": None,
        "redrives": [],
        "links": {"self": status_url(ended.task_id), "outputs": []},
    }


def _reason(record: Record) -> str | None:
    if record.state not in {"FAILURE", "REVOKED", "RETRY"}:
        return None
    code = next((step.error.get("code") for step in record.steps if step.state == record.state and step.error), None)
    return str(code) if code else None


def summary(record: Record) -> str:  # noqa: PLR0911 -- one return for each thing that can be said
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
        return f"Delayed until {rfc3339(record.due_at)}."
    return f"Waiting for {where}."


def _step(step: StepRecord, *, operator: bool) -> dict[str, Any]:
    return {
        "number": step.number,
        "stage": step.stage,
        "name": step.name,
        "state": step.state,
        "attempts": step.attempt + 1 if step.started_at else 0,
        "deliveries": step.delivery,
        "started_at": rfc3339(step.started_at),
        "ended_at": rfc3339(step.ended_at),
        "retry_at": rfc3339(step.retry_at) if step.state == "RETRY" else None,
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
