"""A backend of django.tasks: tasks go through the outbox, and run on Offload's worker of this project.

    TASKS = {"default": {"BACKEND": "offload_outbox.backend.OffloadBackend"}}

A task is enqueued with the transaction that asks for it. `run_after`, coroutine functions and results are supported;
priorities are not.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import TaskError, TaskResult, TaskResultStatus
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils import timezone
from django.utils.json import normalize_json
from django.utils.module_loading import import_string

from offload_outbox import outbox
from offload_outbox.client import connect
from offload_outbox.models import Entry

if TYPE_CHECKING:
    from django.tasks import Task

TASK_TYPE = "django.run.v1"
_STATUS = {
    "SUCCESS": TaskResultStatus.SUCCESSFUL,
    "FAILURE": TaskResultStatus.FAILED,
    "REVOKED": TaskResultStatus.FAILED,
    "STARTED": TaskResultStatus.RUNNING,
}


class OffloadBackend(BaseTaskBackend):
    """Enqueues into the outbox, and reads results from Offload."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True

    def enqueue(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskResult:
        """Write the task into the outbox, in the current transaction."""
        self.validate_task(task)
        entry_id = uuid4()
        given = {
            "function": task.module_path,
            "result_id": str(entry_id),
            "args": normalize_json(list(args)),
            "kwargs": normalize_json(kwargs),
            "takes_context": task.takes_context,
        }
        options = {"run_at": task.run_after.isoformat()} if task.run_after else {}
        entry = outbox.enqueue({"task": TASK_TYPE, "input": given, **options}, entry_id)
        result = _result(self.alias, entry, task, None)
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """Return how a task stands.

        Raises:
            TaskResultDoesNotExist: when there is none of this id.

        """
        entry = _entry(result_id)
        found = None
        if entry.task_id:
            with connect() as client:
                answer = client.get(f"/v1/tasks/{entry.task_id}")
                found = answer.raise_for_status().json()
        return _result(self.alias, entry, import_string(entry.body["input"]["function"]), found)


def running(task: Task, result_id: str, worker: str, attempt: int) -> TaskResult:
    """Return the result of a task for the task itself, while a worker runs it: its first attempt is 1.

    The worker tells it what Offload does not know yet: a task may run before the relay has noted its id.

    Raises:
        TaskResultDoesNotExist: when there is none of this id.

    """
    result, now = _result(task.backend, _entry(result_id), task, None), timezone.now()
    status = TaskResultStatus.RUNNING
    return replace(result, status=status, started_at=now, last_attempted_at=now, worker_ids=[worker] * attempt)


def _entry(result_id: str) -> Entry:
    """Return the outbox's entry of a task."""
    try:
        entry = Entry.objects.get(id=UUID(result_id))
    except (Entry.DoesNotExist, ValueError):
        raise TaskResultDoesNotExist(result_id) from None
    if "function" not in entry.body.get("input", {}):
        raise TaskResultDoesNotExist(result_id)
    return entry


def _result(alias: str, entry: Entry, task: Task, found: dict[str, Any] | None) -> TaskResult:
    """Return the result of an entry: `found` is its task as Offload shows it, None while it has none."""
    given, step = entry.body["input"], ((found or {}).get("steps") or [None])[0]
    status = _STATUS.get(found["state"], TaskResultStatus.READY) if found else TaskResultStatus.READY
    error = (found or {}).get("error")
    errors = []
    if entry.refused:
        status, errors = (
            TaskResultStatus.FAILED,
            [TaskError(exception_class_path="ValueError", traceback=entry.refused)],
        )
    elif error and status is TaskResultStatus.FAILED:
        details = error.get("details") or {}
        errors = [
            TaskError(
                exception_class_path=details.get("exception", "builtins.RuntimeError"),
                traceback=details.get("traceback", f"{error['code']}: {error['message']}"),
            )
        ]
    result = TaskResult(
        task=task,
        id=str(entry.id),
        status=status,
        enqueued_at=entry.created_at,
        started_at=_moment(step and step["started_at"]),
        last_attempted_at=_moment(step and step["started_at"]),
        finished_at=_moment((found or {}).get("finished_at")),
        args=given["args"],
        kwargs=given["kwargs"],
        backend=alias,
        errors=errors,
        worker_ids=[step["worker"]] * step["attempts"] if step and step["worker"] else [],
    )
    if status is TaskResultStatus.SUCCESSFUL and found and found["result"]:
        # Django's own backends set it the same way: the class is frozen.
        object.__setattr__(result, "_return_value", found["result"]["return_value"])
    return result


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
