"""Accepting a task: record, message and idempotency key in one script, one round trip to Redis."""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from redis.exceptions import OutOfMemoryError

from gateway.intake import idempotency
from gateway.intake.fields import MAX_DELAY_SECONDS
from gateway.pipeline import Pipeline
from gateway.problems import RETRY_AFTER_SECONDS, Problem, invalid_fields
from offload_core.messages import PRIVATE
from offload_core.publisher import Publisher
from offload_core.redis_client import UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    import redis.asyncio

    from gateway.admission import Admission
    from gateway.auth import Caller
    from gateway.intake.fields import TaskOptions, TaskRequest
    from gateway.intake.idempotency import Key
    from gateway.redis_watch import RedisWatch
    from gateway.settings import GatewaySettings
    from offload_core.messages import NewStep, Stage
    from offload_core.records import NewTask
    from offload_core.task_store import Call, TaskStore


@dataclass(frozen=True, slots=True)
class Accepted:
    """A task that was accepted now, or by an earlier request of the same idempotency key."""

    task_id: str
    replayed: bool


class Dispatcher:
    """Puts tasks into Redis."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        watch: RedisWatch,
        admission: Admission,
        tasks: TaskStore,
        settings: GatewaySettings,
    ) -> None:
        """Take the client, what is known of Redis, the limits, and the store of tasks."""
        self._pipeline = Pipeline(client)
        self._redis = watch
        self._admission = admission
        self._settings = settings
        self._publisher = Publisher(f"{os.getpid()}@{socket.gethostname()}")
        self._tasks = tasks

    async def accept(
        self,
        caller: Caller,
        kind: str,
        stages: Sequence[NewStep | Stage],
        options: TaskRequest,
        *,
        task_id: str,
        idempotency_key: Key | None = None,
        fingerprint: str = "",
        **fields: Any,  # noqa: ANN401 -- the record's
    ) -> Accepted:
        """Accept a task, or nothing of it. `fields` are the record's (user_id, notify, upload, upload_sha256).

        Raises:
            Problem: 422 ``idempotency.conflict`` or ``request.invalid``, 429 ``queue.full``, ``tenant.full`` or
                ``rate.limited``, 503 ``accept.unknown``.

        """
        with self.publishing(
            caller,
            kind,
            stages,
            options,
            task_id=task_id,
            idempotency_ttl_ms=idempotency_key.ttl_ms if idempotency_key else None,
            **fields,
        ) as task:
            return await self.put(caller, task, idempotency_key=idempotency_key, fingerprint=fingerprint)

    async def put(
        self, caller: Caller, task: NewTask, *, idempotency_key: Key | None = None, fingerprint: str = ""
    ) -> Accepted:
        """Accept a task that is ready to be published, or nothing of it.

        Raises:
            Problem: 422 ``idempotency.conflict``, 429 ``queue.full``, ``tenant.full`` or ``rate.limited``, 503
                ``accept.unknown`` or ``redis.memory``.

        """
        is_delayed = bool(task.envelopes[0].due_ms)
        call = self._tasks.accept(
            task,
            idempotency_key=idempotency_key.text if idempotency_key else "",
            fingerprint=fingerprint,
            limits=self._admission.limits(caller),
        )
        answer, subject, *queue = await self.run(call)
        answer, queue = answer.decode(), queue[0].decode() if queue else ""
        self.refuse(caller, answer, subject, queue, is_delayed=is_delayed)
        if answer == "conflict":
            raise idempotency.conflict()
        return Accepted(subject.decode(), replayed=answer == "replayed")

    def refuse(self, caller: Caller, why: str, subject: Any, queue: str, *, is_delayed: bool) -> None:  # noqa: ANN401 -- as the script has it
        """Raise what to say when a script has accepted nothing more, for a reason that passes; else do nothing.

        `subject` is how many wait in the `queue`, or the milliseconds to wait.

        Raises:
            Problem: 429 ``queue.full``, ``tenant.full`` or ``rate.limited``, 503 ``redis.memory``.

        """
        if why == "memory":
            raise self._admission.nearly_full()
        if why == "full":
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "queue.full",
                f"{subject} tasks {'are delayed' if is_delayed else 'wait'} in the queue {queue} already",
                retry_after=10,
            )
        if why == "tenant":
            raise self._admission.tenant_full(int(subject))
        if why == "rate":
            raise self._admission.too_fast(caller, int(subject) / 1000)

    @contextmanager
    def publishing(
        self,
        caller: Caller,
        kind: str,
        stages: Sequence[NewStep | Stage],
        options: TaskRequest,
        *,
        task_id: str,
        trace_of_its_own: bool = False,
        **fields: Any,  # noqa: ANN401 -- the record's
    ) -> Iterator[NewTask]:
        """Give a task with these options, to be put into Redis within this block.

        Raises:
            Problem: 422 ``request.invalid``.

        """
        due = self._due(options)
        with self._publisher.publishing(
            task_id,
            kind,
            caller.tenant,
            stages,
            trace_of_its_own=trace_of_its_own,
            due=due,
            headers=headers_of(options),
            expires_at=self._expires_at(options, due),
            tags=options.tags,
            metadata=options.metadata,
            callback_url=options.callback_url,
            **fields,
        ) as task:
            yield task

    def _due(self, options: TaskRequest) -> datetime | None:
        """Return when a task may start, by Redis's clock; None for at once."""
        now = self._redis.now()
        if options.delay_seconds:
            return now + timedelta(seconds=options.delay_seconds)
        if options.run_at is None or options.run_at <= now:
            return None
        if options.run_at > now + timedelta(seconds=MAX_DELAY_SECONDS):
            raise invalid_fields({"run_at": "must be at most 30 days ahead"})
        return options.run_at

    def _expires_at(self, options: TaskRequest, due: datetime | None) -> int | None:
        if options.expires_in_seconds is None:
            return None
        return round(((due or self._redis.now()).timestamp() + options.expires_in_seconds) * 1000)

    async def run(self, call: Call) -> Any:  # noqa: ANN401 -- Redis answers what the script returns
        """Run a script that accepts tasks; once more when its answer was lost: it must know what it has accepted.

        Raises:
            Problem: 503 ``accept.unknown``, or ``redis.memory`` when Redis is full: the script has written nothing.

        """
        try:
            return await self._pipeline.run(call)
        except OutOfMemoryError:
            # Filled up within the second since it was looked at.
            self._redis.memory_share = 1.0
            raise self._admission.nearly_full() from None
        except UNAVAILABLE:
            try:
                return await self._pipeline.run(call)
            except UNAVAILABLE as error:
                self._redis.is_up = False
                raise Problem(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "accept.unknown",
                    "the queue did not answer; send the request again with the same Idempotency-Key",
                    retry_after=RETRY_AFTER_SECONDS,
                ) from error


def headers_of(options: TaskOptions) -> dict[str, Any]:
    """Return what the messages of every step say of a task's options."""
    headers: dict[str, Any] = {}
    if options.retry is not None:
        headers["retry"] = options.retry.model_dump(mode="json", exclude_none=True)
    if options.private:
        headers[PRIVATE] = list(options.private)
    return headers


def new_task_id() -> str:
    """Return a new task id."""
    return str(uuid.uuid4())
