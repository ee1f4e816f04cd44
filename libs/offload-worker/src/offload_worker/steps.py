"""How a contract becomes a Celery task: the gate before it, the pure function in it, the policy around it.

A step's function takes the decoded message and a `Run`, and returns the contract's result. Everything else that every
step needs is here, once: the gate, decoding, retries with a growing pause, a total deadline where the pool has no time
limits.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Ignore, Reject

from offload_contracts.contract import Message, Result, TaskContract
from offload_contracts.images import Outputs
from offload_core import keys, logs
from offload_core.errors import TemporaryError
from offload_worker import time_limits
from offload_worker.fence import Fence

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from offload_core.settings import WorkerSettings
    from offload_worker.backend import RecordBackend


@dataclass(frozen=True, slots=True)
class Policy:
    """What happens when a step fails, or does not end.

    A `TemporaryError` is tried again after each of the `pauses_seconds`, with up to a tenth of jitter. One that is left
    after the last of them goes to the dead letters, from where it can be redriven. Any other error is final.
    `deadline_seconds` ends the whole worker, for pools without time limits.
    """

    pauses_seconds: tuple[float, ...]
    deadline_seconds: float | None = None

    @classmethod
    def of(cls, settings: WorkerSettings, deadline_seconds: float | None = None) -> Policy:
        """Return the policy of the settings: so many retries, each pause twice the one before."""
        first = settings.retry_backoff_seconds
        return cls(tuple(first * 2.0**number for number in range(settings.max_retries)), deadline_seconds)


@dataclass(frozen=True, slots=True)
class Run[C]:
    """One run of one step: which one it is, what the steps before have made, and how to tell of progress."""

    # What the worker's functions work with.
    resources: C
    task_id: str
    step: int
    celery_id: str
    attempt: int
    delivery: int
    outputs: Outputs
    progress: Callable[[int, int], None]


class GatedTask(Task):
    """The base of all steps."""

    Request = "offload_worker.celery_telemetry:ObservedRequest"

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:  # noqa: ANN401, ARG002 -- Celery's signature
        """Ask the record whether this run may begin. ``Ignore`` here acknowledges the message and stores nothing."""
        time_limits.take_over_soft_limits()
        step = keys.step_of(task_id)
        logs.task_id.set(step.task_id)
        backend: RecordBackend = self.app.backend
        carried = args[0] if len(args) > 1 else {}
        call = backend.store.start(step, Fence.of(self.request), self.request.hostname or "", carried)
        answer = backend.run(call, f"begin {task_id}")
        if answer == "record.missing":
            raise Reject(answer, requeue=False)
        begun, _, first_attempt = answer.partition(":")
        if begun != "run":
            raise Ignore(answer)
        self.request.first_attempt = int(first_attempt)

    def after_return(self, *_: object) -> None:
        """Forget whose step this was."""
        logs.task_id.set("")


def register[M: Message, R: Result, C](
    app: Celery, contract: TaskContract[M, R], function: Callable[[M, Run[C]], R], policy: Policy, resources: C
) -> Task:
    """Make a contract's task of a function."""

    def run(task: Any, *args: Any) -> dict[str, Any]:  # noqa: ANN401 -- Celery's bound task
        *carried, data = args
        message = contract.decode(data)
        this = _run(task, resources, Outputs.model_validate(carried[0]) if carried else Outputs())
        try:
            with time_limits.limit(policy.deadline_seconds, task.request.properties["delivery_tag"], contract.name):
                result = function(message, this)
        except TemporaryError as error:
            # A redriven step has all its retries again.
            retries = this.attempt - task.request.first_attempt
            if retries >= len(policy.pauses_seconds):
                # Kept in the record first: the broker knows of a rejection no more than its code.
                task.app.backend.mark_as_retry(task.request.id, error, request=task.request)
                raise Reject(error.code, requeue=False) from error
            pause = with_jitter(policy.pauses_seconds[retries])
            task.request.retry_at_ms = round((time.time() + pause) * 1000)
            raise task.retry(exc=error, countdown=pause) from error
        return contract.encode_result(result)

    # Not shared: Celery would give it to every application of the process. How many retries there are, `run` decides.
    task: Task = app.task(run, bind=True, name=contract.name, base=GatedTask, max_retries=None, shared=False)
    return task


def with_jitter(seconds: float) -> float:
    """Return the pause, up to a tenth longer by chance: what failed together does not come back together."""
    return seconds * random.uniform(1, 1.1)  # noqa: S311 -- jitter is no secret


def _run[C](task: Any, resources: C, outputs: Outputs) -> Run[C]:  # noqa: ANN401 -- Celery's bound task
    request = task.request
    step = keys.step_of(request.id)
    backend: RecordBackend = task.app.backend
    fence = Fence.of(request)

    def progress(done: int, total: int) -> None:
        backend.run(backend.store.progress(step, fence, done, total), f"progress of {request.id}")

    return Run(resources, step.task_id, step.number, request.id, *fence, outputs, progress)
