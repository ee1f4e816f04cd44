"""The result backend: each change of a step is one script over its task's record."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback as traceback_module
from typing import TYPE_CHECKING, Any

from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery.backends.base import BaseBackend
from celery.exceptions import Reject
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from celery_leases import worker
from offload_contracts.contract import ContractError
from offload_core import keys, records, telemetry
from offload_core.errors import StepError
from offload_core.logs import redact
from offload_core.private import scrubbed
from offload_core.redis_client import connect
from offload_core.task_store import TaskStore
from offload_worker.fence import Fence
from offload_worker.outages import wait_for_redis

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import redis

    from offload_core.keys import Step
    from offload_core.settings import Settings
    from offload_core.task_store import Call

logger = logging.getLogger(__name__)


class RecordBackend(BaseBackend):
    """Stores what Celery reports into task records. Waits for Redis; keeps what is terminal terminal."""

    persistent = True

    def __init__(self, app: Any, settings: Settings | None = None, **kwargs: Any) -> None:  # noqa: ANN401 -- Celery's signature
        """Take the settings from the application that the factory made, where they are not given."""
        super().__init__(app, **kwargs)
        self.settings: Settings = settings or app.settings
        self.store = TaskStore.of(self.settings)
        self._clients: dict[int, redis.Redis] = {}

    @property
    def client(self) -> redis.Redis:
        """This process's client: a pool's child never shares its parent's connection."""
        return self._clients.setdefault(os.getpid(), connect(self.settings))

    def run(self, call: Call, what: str) -> str:
        """Run a script, waiting for Redis; returns its answer.

        A worker that stops while it waits gives its message back instead.
        """
        try:
            answer = wait_for_redis(lambda: call.run(self.client), what)
        except Exception as error:
            if worker.is_stopping():
                raise Reject(f"stopped while Redis was unavailable: {what}", requeue=True) from error
            raise
        outcome: str = answer.decode()
        if outcome != "stored" and not outcome.startswith("run:"):
            logger.info("%s: %s", what, outcome)
        return outcome

    def step(self, celery_id: str) -> Step:
        """Return which step of which task a Celery id is."""
        return keys.step_of(celery_id)

    # -- what Celery calls

    def store_result(self, task_id: str, result: object, state: str, *_: object, **kwargs: Any) -> None:  # noqa: ANN401 -- Celery's signature
        """Store a state that comes by no method of its own."""
        if state == "SUCCESS":
            self.mark_as_done(task_id, result, request=kwargs.get("request"))

    def mark_as_done(
        self,
        task_id: str,
        result: object,
        request: Any = None,  # noqa: ANN401 -- Celery's
        store_result: bool = True,  # noqa: FBT001, FBT002, ARG002 -- Celery's signature
        state: str = "SUCCESS",
    ) -> None:
        """Store what a step gave; the same script publishes the next stage, and the task is done with its last one."""
        with publishing(getattr(request, "following", [])):
            call = self.store.finish(
                self.step(task_id), Fence.of(request), state, result, traceparent=telemetry.traceparent()
            )
            self.run(call, f"store {state} of {task_id}")

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: object = None,
        request: Any = None,  # noqa: ANN401 -- Celery's
        store_result: bool = True,  # noqa: FBT001, FBT002, ARG002 -- Celery's signature
        call_errbacks: bool = True,  # noqa: FBT001, FBT002, ARG002 -- our chains have none
        state: str = "FAILURE",
    ) -> None:
        """Store why a step failed for good; the same script publishes what its subscriptions ask for."""
        if isinstance(exc, Reject):
            return  # the broker buries the message, and `dead_letters` tells of it
        self.fail(task_id, describe(exc, traceback), Fence.of(request), state=state)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: object = None,  # noqa: ARG002 -- Celery's signature
        request: Any = None,  # noqa: ANN401 -- Celery's
        store_result: bool = True,  # noqa: FBT001, FBT002, ARG002 -- Celery's signature
        state: str = "RETRY",  # noqa: ARG002 -- Celery's signature
    ) -> None:
        """Store that a step is tried again. Celery publishes the retry first, so that this may come too late."""
        retry_at = getattr(request, "retry_at_ms", 0) or round(time.time() * 1000)
        call = self.store.retry(self.step(task_id), Fence.of(request), describe(exc, None), retry_at)
        self.run(call, f"store RETRY of {task_id}")

    def mark_as_revoked(self, task_id: str, reason: str = "", request: Any = None, *_: object, **__: object) -> None:  # noqa: ANN401 -- Celery's
        """Store that a step was revoked by remote control, or had expired."""
        self.fail(task_id, {"code": "task.revoked", "message": reason}, Fence.of(request), state="REVOKED")

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """Return what Celery's own ``AsyncResult`` asks for."""
        step = self.step(task_id)
        found = self.record(step.task_id)
        if found is None:
            return {"status": "PENDING", "result": None}
        own = found.steps[step.number - 1]
        return {"status": own.state, "result": own.result}

    def process_cleanup(self) -> None:
        """Keep the connection: it is closed with the process."""

    # -- ours

    def fail(
        self,
        celery_id: str,
        error: dict[str, Any],
        run: Fence,
        *,
        state: str = "FAILURE",
        keep_ms: int | None = None,
    ) -> str:
        """End a task at a step that failed; returns the script's answer."""
        call = self.store.finish(
            self.step(celery_id), run, state, error, keep_ms=keep_ms, traceparent=telemetry.traceparent()
        )
        return self.run(call, f"store {state} of {celery_id}")

    def record(self, task_id: str) -> records.Record | None:
        """Return a task's record, or None. Waits for Redis."""
        key = keys.record(self.settings.key_prefix, task_id)
        return wait_for_redis(lambda: records.decode(task_id, self.client.hgetall(key)), f"read {task_id}")


@contextlib.contextmanager
def publishing(steps: Sequence[Mapping[str, str]]) -> Iterator[None]:
    """Put what is published inside into a producer's span of its first step; nothing where there is no step."""
    if not steps:
        yield
        return
    first = steps[0]
    attributes: dict[str, Any] = dict(telemetry.publish_attributes(first["name"], first["queue"], first["id"]))
    if len(steps) > 1:
        attributes["messaging.batch.message_count"] = len(steps)
    with trace.get_tracer("offload").start_as_current_span(
        f"apply_async/{first['name']}", kind=SpanKind.PRODUCER, attributes=attributes
    ):
        yield


def describe(error: BaseException, traceback: object) -> dict[str, Any]:
    """Return an error as the record holds it: a stable code, a text for people, and the traceback for operators."""
    code, message = "task.failed", "the step ended with an unexpected error"
    if isinstance(error, StepError):
        code, message = error.code, error.message
    elif isinstance(error, ContractError):
        code, message = "contract.invalid", str(error)
    elif isinstance(error, SoftTimeLimitExceeded):
        code, message = "task.soft_time_limit", "the step exceeded its time limit"
    elif isinstance(error, TimeLimitExceeded):
        code, message = "task.time_limit", "the step exceeded its hard time limit and was ended"
    elif isinstance(error, MemoryError):
        code, message = "task.memory_limit", "the step exceeded its memory limit"
    elif isinstance(error, WorkerLostError):
        code, message = "task.worker_lost", "the process that ran the step died"
    described: dict[str, Any] = {"code": code, "message": redact(message), "type": type(error).__name__}
    if isinstance(error, StepError):
        if error.details:
            described["details"] = scrubbed(error.details)
    else:
        text = str(traceback) if traceback else "".join(traceback_module.format_exception_only(error))
        described["traceback"] = redact(text)[-8000:]
    return described
