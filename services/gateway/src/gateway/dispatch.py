"""Accepting a task: record, message and idempotency key in one script, one round trip to Redis."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import socket
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from gateway.batches import Batches
from gateway.problems import RETRY_AFTER_SECONDS, Problem, redis_unavailable
from offload_core.publisher import Publisher
from offload_core.redis_client import AWAY, cause, connect_async
from offload_core.task_store import Rate, TaskStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel
    from starlette.datastructures import Headers

    from gateway.auth import Caller
    from gateway.settings import GatewaySettings
    from offload_core.messages import ChainStep
    from offload_core.task_store import Call

logger = logging.getLogger(__name__)

# Above this share of Redis's memory nothing new is accepted, so that what runs can end.
MEMORY_SHARE = 0.8
SAMPLE_SECONDS = 1.0
MAX_IDEMPOTENCY_KEY_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Accepted:
    """A task that was accepted now, or by an earlier request of the same idempotency key."""

    task_id: str
    replayed: bool


@dataclass(slots=True)
class Health:
    """Redis as it was a second ago: looked at outside of the accept path."""

    is_up: bool = True
    memory_share: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def is_nearly_full(self) -> bool:
        """Whether nothing new is accepted, so that what runs can end."""
        return self.memory_share > MEMORY_SHARE


class Dispatcher:
    """Puts tasks into Redis."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Prepare the client; it connects with the first request."""
        self._settings = settings
        self.client = connect_async(settings, timeout_seconds=settings.redis_timeout_seconds)
        self._batches = Batches(self.client)
        self.health = Health()
        self._publisher = Publisher(f"{os.getpid()}@{socket.gethostname()}")
        self._store = TaskStore.of(settings)
        self._sampler: asyncio.Task[None] | None = None
        per_second = settings.rate_limit_per_second
        self._rate = Rate(per_second, settings.rate_limit_burst) if per_second else None
        # Until when (monotonic) a caller that has just been refused is refused before its body is read.
        self._too_fast: dict[str, float] = {}
        # How far Redis's clock is ahead of this machine's: what is delayed falls due by Redis's.
        self._clock_ahead = timedelta()

    async def start(self) -> None:
        """Look at Redis once, and then every second."""
        await self._sample()
        self._sampler = asyncio.create_task(self._keep_sampling())

    async def stop(self) -> None:
        """Stop looking, and close the connections."""
        if self._sampler is not None:
            self._sampler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sampler
        await self.client.aclose()

    def check(self, caller: Caller, idempotency_key: str | None) -> None:
        """Refuse before the body is read, where it is known already that it could not be accepted.

        With an idempotency key the task may have been accepted before: then the script decides.

        Raises:
            Problem: 503 ``redis.unavailable`` or ``redis.memory``, 429 ``rate.limited``.

        """
        if not self.health.is_up:
            raise redis_unavailable()
        if idempotency_key is not None:
            return
        if self.health.is_nearly_full:
            raise _nearly_full()
        if self._too_fast:
            wait_seconds = self._too_fast.get(caller.name, 0) - time.monotonic()
            if wait_seconds > 0:
                raise self._limited(wait_seconds)
            self._too_fast.pop(caller.name, None)

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
        **fields: str | None,
    ) -> Accepted:
        """Accept a task, or nothing of it. `fields` are the record's (user_id, notify, upload, upload_sha256).

        Raises:
            Problem: 422 ``idempotency.conflict``, 429 ``queue.full`` or ``rate.limited``, 503 ``accept.unknown``.

        """
        first = steps[0]
        due = self._redis_now() + timedelta(seconds=delay_seconds) if delay_seconds else None
        with self._publisher.publishing(task_id, kind, caller.name, steps, due=due, **fields) as task:
            call = self._store.accept(
                task,
                idempotency_key=idempotency_key or "",
                fingerprint=fingerprint,
                waiting_limit=self._settings.delayed_limit if due else self._settings.queue_limit,
                is_nearly_full=self.health.is_nearly_full,
                rate=self._rate,
            )
            answer, subject = await self._run(call)
        if answer == "memory":
            raise _nearly_full()
        if answer == "full":
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "queue.full",
                f"{subject} tasks {'are delayed' if delay_seconds else 'wait'} in the queue {first.queue} already",
                retry_after=10,
            )
        if answer == "rate":
            wait_seconds = int(subject) / 1000
            self._too_fast[caller.name] = time.monotonic() + wait_seconds
            raise self._limited(wait_seconds)
        if answer == "conflict":
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "idempotency.conflict",
                "this Idempotency-Key was used for another request",
            )
        return Accepted(subject, replayed=answer == "replayed")

    def _limited(self, wait_seconds: float) -> Problem:
        return Problem(
            HTTPStatus.TOO_MANY_REQUESTS,
            "rate.limited",
            f"this API key may post {self._settings.rate_limit_per_second:g} tasks a second",
            retry_after=math.ceil(wait_seconds),
        )

    async def _run(self, call: Call) -> tuple[str, str]:
        """Run the accept script; once more when its answer was lost, which is safe: it knows its own task id."""
        try:
            result = await self._batches.run(call)
        except OutOfMemoryError:
            # Filled up within the second since it was looked at: the script has written nothing.
            self.health.memory_share = 1.0
            return "memory", ""
        except AWAY:
            try:
                result = await self._batches.run(call)
            except AWAY as error:
                self.health.is_up = False
                raise Problem(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "accept.unknown",
                    "the queue did not answer; send the request again with the same Idempotency-Key",
                    retry_after=RETRY_AFTER_SECONDS,
                ) from error
        answer, subject = result
        return answer.decode(), subject.decode() if isinstance(subject, bytes) else str(subject)

    def _redis_now(self) -> datetime:
        return datetime.now(UTC) + self._clock_ahead

    async def _keep_sampling(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            await self._sample()

    async def _sample(self) -> None:
        try:
            seconds, microseconds = await self.client.time()
            self._clock_ahead = datetime.fromtimestamp(seconds + microseconds / 1e6, UTC) - datetime.now(UTC)
            memory = await self.client.info("memory")
        except RedisError as error:
            if self.health.is_up:
                why = cause(error)
                logger.exception("Redis does not serve (%s): posts get 503 until it does", why)
            self.health.is_up = False
            return
        if not self.health.is_up:
            logger.info("Redis answers again")
        limit = int(memory.get("maxmemory", 0)) or self._settings.memory_limit_bytes
        self.health.memory_share = int(memory["used_memory"]) / limit if limit else 0.0
        if not self.health.is_up or not self.health.warnings:
            self.health.warnings = await self._warnings()
        self.health.is_up = True

    async def _warnings(self) -> tuple[str, ...]:
        """Name what of Redis's own settings would break the promise that nothing accepted is lost."""
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        try:
            found = {name: (await self.client.config_get(name)).get(name) for name in wanted}
        except ResponseError:
            return ("Redis does not show its settings: AOF, appendfsync always and noeviction must be set there",)
        except RedisError:
            return ()
        different = [f"{name} is {found[name]}, not {value}" for name, value in wanted.items() if found[name] != value]
        for warning in different:
            if warning not in self.health.warnings:
                logger.warning("accepted tasks may be lost: Redis's %s", warning)
        return tuple(different)


def _nearly_full() -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "redis.memory",
        "the queue's memory is nearly full; nothing new is accepted for now",
        retry_after=10,
    )


def new_task_id() -> str:
    """Return a new task id."""
    return str(uuid.uuid4())


def idempotency_key(headers: Headers) -> str | None:
    """Return the request's idempotency key, if it has one.

    Raises:
        Problem: 400 ``idempotency.invalid`` when it is empty, too long, not printable ASCII, or given twice.

    """
    keys_given = headers.getlist("idempotency-key")
    if not keys_given:
        return None
    if len(keys_given) > 1:
        raise Problem(HTTPStatus.BAD_REQUEST, "idempotency.invalid", "send one Idempotency-Key")
    key = keys_given[0]
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            "idempotency.invalid",
            f"an Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} printable ASCII characters",
        )
    return key


def fingerprint(method: str, path: str, options: BaseModel, sha256: str = "") -> str:
    """Return what makes two requests the same: method, path, what was asked for, and the file's own digest.

    What was asked for, not how: the order of members, a default that is written out and ``010`` for 10 change nothing.
    """
    text = json.dumps([method, path, options.model_dump(mode="json"), sha256], separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
