"""Accepting a task: record, message and idempotency key in one script, one round trip to Redis."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from redis.exceptions import OutOfMemoryError

from gateway.pipeline import Pipeline
from gateway.problems import RETRY_AFTER_SECONDS, Problem
from offload_core.publisher import Publisher
from offload_core.redis_client import UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis.asyncio

    from gateway.admission import Admission
    from gateway.auth import Caller
    from gateway.redis_watch import RedisWatch
    from gateway.settings import GatewaySettings
    from offload_core.messages import ChainStep
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
        steps: Sequence[ChainStep],
        *,
        task_id: str,
        delay_seconds: float = 0,
        idempotency_key: str | None = None,
        fingerprint: str = "",
        **fields: str | int | None,
    ) -> Accepted:
        """Accept a task, or nothing of it. `fields` are the record's (user_id, notify, upload, upload_sha256).

        Raises:
            Problem: 422 ``idempotency.conflict``, 429 ``queue.full`` or ``rate.limited``, 503 ``accept.unknown``.

        """
        first = steps[0]
        due = self._redis.now() + timedelta(seconds=delay_seconds) if delay_seconds else None
        with self._publisher.publishing(task_id, kind, caller.name, steps, due=due, **fields) as task:
            call = self._tasks.accept(
                task,
                idempotency_key=idempotency_key or "",
                fingerprint=fingerprint,
                waiting_limit=self._settings.delayed_limit if due else self._settings.queue_limit,
                is_nearly_full=self._admission.is_nearly_full,
                rate=self._admission.rate,
            )
            answer, subject = await self._run(call)
        if answer == "memory":
            raise self._admission.nearly_full()
        if answer == "full":
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "queue.full",
                f"{subject} tasks {'are delayed' if delay_seconds else 'wait'} in the queue {first.queue} already",
                retry_after=10,
            )
        if answer == "rate":
            raise self._admission.too_fast(caller, int(subject) / 1000)
        if answer == "conflict":
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "idempotency.conflict",
                "this Idempotency-Key was used for another request",
            )
        return Accepted(subject, replayed=answer == "replayed")

    async def _run(self, call: Call) -> tuple[str, str]:
        """Run the accept script; once more when its answer was lost, which is safe: it knows its own task id."""
        try:
            result = await self._pipeline.run(call)
        except OutOfMemoryError:
            # Filled up within the second since it was looked at: the script has written nothing.
            self._redis.memory_share = 1.0
            return "memory", ""
        except UNAVAILABLE:
            try:
                result = await self._pipeline.run(call)
            except UNAVAILABLE as error:
                self._redis.is_up = False
                raise Problem(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "accept.unknown",
                    "the queue did not answer; send the request again with the same Idempotency-Key",
                    retry_after=RETRY_AFTER_SECONDS,
                ) from error
        answer, subject = result
        return answer.decode(), subject.decode() if isinstance(subject, bytes) else str(subject)


def new_task_id() -> str:
    """Return a new task id."""
    return str(uuid.uuid4())
