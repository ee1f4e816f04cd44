"""How a task type becomes a Celery task: the gate before it, the function in it, the policy around it.

A step's function takes the decoded message and a `Run`, and returns the contract's result. Everything else that every
step needs is here, once: the gate, decoding, retries with a growing pause, a total deadline where the pool has no time
limits.
"""

from __future__ import annotations

import functools
import inspect
import json
import time
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Ignore, Reject

from celery_leases import leases
from offload_core import keys, logs, private, telemetry
from offload_core.errors import PostponeError
from offload_core.messages import PRIVATE
from offload_worker import event_loop, exits, time_limits
from offload_worker.fence import Fence
from offload_worker.run import Run, encode_returned

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery
    from pydantic import BaseModel

    from offload_contracts.contract import TaskContract
    from offload_core.blobs import BlobStore
    from offload_worker.backend import RecordBackend
    from offload_worker.lifespan import Lifespan
    from offload_worker.policy import Policy

# Whose Celery chain publishes the next step, rather than the script that stores this one's result.
CHAINED = "-"


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
        call = backend.store.start(
            step, Fence.of(self.request), self.request.hostname or "", carried, traceparent=telemetry.traceparent()
        )
        answer = backend.run(call, f"begin {task_id}")
        if answer == "record.missing":
            raise Reject(answer, requeue=False)
        begun, _, rest = answer.partition(":")
        if begun != "run":
            raise Ignore(answer)
        first_attempt, _, following = rest.partition(":")
        self.request.first_attempt = int(first_attempt)
        self.request.is_chained = following == CHAINED
        # The steps that storing this one's result may publish.
        self.request.following = json.loads(following) if following not in {"", CHAINED} else []

    def after_return(self, *_: object) -> None:
        """Forget whose step this was."""
        logs.task_id.set("")


def register[M: BaseModel, R: BaseModel](
    app: Celery,
    contract: TaskContract[M, R],
    function: Callable[[M, Run[Any]], Any],
    policy: Policy,
    lifespan: Lifespan[Any],
    blobs: Callable[[], BlobStore],
) -> Task:
    """Make a contract's task of a function, or of a coroutine function."""
    is_asynchronous = inspect.iscoroutinefunction(function)
    # In a pool of processes Celery's own soft limit is for coroutines too.
    coroutine_limit = policy.soft_time_limit_seconds if policy.deadline_seconds is not None else None

    def run(task: Any, *args: Any) -> dict[str, Any]:  # noqa: ANN401 -- Celery's bound task
        with private.hidden(args[-1], getattr(task.request, PRIVATE, ())):
            return work(task, *args)

    def work(task: Any, *args: Any) -> dict[str, Any]:  # noqa: ANN401 -- as above
        request = task.request
        *carried, data = args
        message = contract.decode(data)
        ours = policy.for_task(getattr(request, "retry", None))
        this = _run(task, contract.name, carried[0] if carried else None, policy, blobs)
        try:
            this.resources = lifespan.resources()
            limit = time_limits.limit(policy.deadline_seconds, request.properties["delivery_tag"], contract.name)
            with limit, exits.contained():
                returned = function(message, this)
                result = event_loop.run(returned, coroutine_limit) if is_asynchronous else returned
        except PostponeError as error:
            event_loop.blocking(functools.partial(_postpone, request.properties["delivery_tag"], error.seconds))
            raise Ignore("postponed") from error
        except Exception as error:
            if not ours.may_heal(error):
                raise
            # A redriven step has all its retries again.
            pause = ours.pause_seconds(this.attempt - request.first_attempt, error)
            if pause is None:
                # Kept in the record first: the broker knows of a rejection no more than its code.
                task.app.backend.mark_as_retry(request.id, error, request=request)
                raise Reject(getattr(error, "code", "task.failed"), requeue=False) from error
            request.retry_at_ms = round((time.time() + pause) * 1000)
            raise event_loop.blocking(functools.partial(_retry, task, request, error, pause)) from error
        if not request.is_chained:
            request.chain = None
        return encode_returned(contract, result, this.outputs)

    # Not shared: Celery would give it to every application of the process. How many retries there are, `run` decides.
    task: Task = app.task(
        run,
        bind=True,
        name=contract.name,
        base=GatedTask,
        max_retries=None,
        shared=False,
        soft_time_limit=policy.soft_time_limit_seconds,
        time_limit=policy.hard_time_limit_seconds,
    )
    return task


def _postpone(delivery_tag: str, seconds: float) -> None:
    holders = leases.holders()
    if not holders:
        # In a child of a pool of processes.
        raise Reject("postponed", requeue=True)
    for holder in holders:
        holder.defer(delivery_tag, seconds)


def _retry(task: Any, request: Any, error: Exception, pause: float) -> Exception:  # noqa: ANN401 -- Celery's
    """Publish a step's message again, and return what its run is to raise. It may run in another thread than that."""
    task.request_stack.push(request)
    try:
        retry: Exception = task.retry(exc=error, countdown=pause, throw=False)
    finally:
        task.request_stack.pop()
    return retry


def _run(
    task: Any,  # noqa: ANN401 -- Celery's bound task
    name: str,
    previous: Any,  # noqa: ANN401 -- any JSON
    policy: Policy,
    blobs: Callable[[], BlobStore],
) -> Run[Any]:
    request = task.request
    step, fence = keys.step_of(request.id), Fence.of(request)
    backend: RecordBackend = task.app.backend

    def progress(done: int, total: int) -> None:
        backend.run(backend.store.progress(step, fence, done, total), f"progress of {request.id}")

    limit = policy.soft_time_limit_seconds or policy.deadline_seconds or task.app.conf.task_soft_time_limit
    return Run.begin(
        name,
        request.id,
        fence,
        previous,
        limit_seconds=limit,
        progress=progress,
        blobs=blobs,
        batch=getattr(request, "batch", None),
    )
