"""The gate of an adopted application's tasks: may this run begin?"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import Ignore, Reject

from offload_core import telemetry
from offload_worker.adoption.values import value_of
from offload_worker.fence import Fence

if TYPE_CHECKING:
    from celery import Celery, Task

    from offload_core.records import StepRecord
    from offload_worker.adoption.results import RecordedBackend

_GATED = "_offload_gated"


def put_before(app: Celery) -> None:
    """Put the gate before each task of an application.

    Celery calls ``before_start`` of a task's class, and nothing else that can stop a run. A decorated function has a
    class of its own.
    """
    for task in app.tasks.values():
        # A message is settled with the end of its run, and the gate tells when that began.
        task.acks_late = task.reject_on_worker_lost = True
        task.track_started = False
        if task.Request == "celery.worker.request:Request":
            task.Request = "offload_worker.celery_telemetry:ObservedRequest"
        own_class: Any = type(task)
        if _GATED not in vars(own_class):
            own_class.before_start = _gated(own_class.before_start)
            setattr(own_class, _GATED, True)


def _gated(before_start: Any) -> Any:  # noqa: ANN401 -- a method of the task's class
    @functools.wraps(before_start)
    def begin(self: Task, task_id: str, args: Any, kwargs: Any) -> None:  # noqa: ANN401 -- Celery's signature
        # A class that calls its base's has two gates.
        if not self.request.is_eager and not getattr(self.request, _GATED, False):
            setattr(self.request, _GATED, True)
            _begin(self)
        before_start(self, task_id, args, kwargs)

    return begin


def _begin(task: Task) -> None:
    """Ask the record. ``Ignore`` acknowledges the message and stores nothing."""
    request, backend = task.request, task.backend
    records = backend.records
    run = Fence.of(request)
    if run.delivery > 1 and _has_ended_before(backend, request):
        raise Ignore("ended")
    # How the step before ended, the script that published this one has noted.
    call = records.store.start(
        records.step(request.id), run, request.hostname or "", {}, traceparent=telemetry.traceparent()
    )
    answer = records.run(call, f"begin {request.id}")
    if answer == "record.missing":
        raise Reject(answer, requeue=False)
    if answer.startswith("run:"):
        if not (task.ignore_result or request.ignore_result):
            meta = {"pid": None, "hostname": request.hostname}
            backend.own(lambda: backend.store_result(request.id, meta, states.STARTED, request=request))
        return
    if answer != "fenced":
        _tell_own(backend, request)
    raise Ignore(answer)


def _step_record(backend: RecordedBackend, celery_id: str) -> StepRecord | None:
    step = backend.records.step(celery_id)
    record = backend.records.record(step.task_id)
    return record.steps[step.number - 1] if record is not None and step.number <= len(record.steps) else None


def _has_ended_before(backend: RecordedBackend, request: Any) -> bool:  # noqa: ANN401 -- Celery's request
    """Bring the record up to a run that told the application's backend of its end, and died before it told the record.

    What was redriven from the dead letters is no such run: its record is PENDING again.
    """
    step = _step_record(backend, request.id)
    if step is None or step.state != states.STARTED:
        return False
    meta = backend.own_outcome(request.id)
    if meta is None:
        return False
    if meta["status"] == states.SUCCESS:
        backend.records.mark_as_done(request.id, value_of(meta["result"]), request=request)
    else:
        backend.records.mark_as_failure(request.id, meta["result"], request=request, state=meta["status"])
    return True


def _tell_own(backend: RecordedBackend, request: Any) -> None:  # noqa: ANN401 -- Celery's request
    """Bring the application's backend up to a step that has ended by its record alone.

    It was cancelled; or the next step of its chain began, and its own run died before it could say how it ended.
    """
    step = _step_record(backend, request.id)
    if step is None or step.state not in {states.SUCCESS, states.REVOKED}:
        return
    if not backend.keeps_results or backend.own_outcome(request.id) is not None:
        return
    if step.state == states.REVOKED:
        reason = (step.error or {}).get("code", "task.cancelled")
        backend.own(lambda: backend.own_revoked(request.id, reason, request))
    else:
        result = (step.result or {}).get("value")
        backend.own(lambda: backend.own_done(request.id, result, request))
