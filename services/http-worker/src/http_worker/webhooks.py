"""Webhooks: one attempt to deliver one event, and what follows from how it went."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, propagate

from celery_leases.publish import load
from celery_leases.scripts import Script
from http_worker import retry_after
from http_worker.calls import USER_AGENT
from offload_contracts.webhooks import Delivered
from offload_core import keys, signing, webhooks
from offload_core.errors import BlockedError, PermanentError, PostponeError, StepError, TemporaryError
from offload_core.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from http_worker.app import Resources
    from http_worker.client import Answer
    from offload_contracts.webhooks import Deliver
    from offload_core.webhooks import Endpoint
    from offload_worker import Run

# Of an answer to a webhook nothing is kept but its status.
ANSWER_BYTES = 1024
GONE = 410
# The receiver says that it is too much: its rate is halved.
_TOO_MUCH = frozenset({429, 502, 504})
# A turn that is further away is waited for in the queue, and takes no slot.
LONGEST_WAIT_SECONDS = 2.0

_ATTEMPT = Script(load("http_worker/lua/attempt.lua"))
_RESERVE = Script(load("http_worker/lua/reserve.lua"))


class Deliveries:
    """How many requests this process has under way, by receiver."""

    def __init__(self, limit: int) -> None:
        """Take how many one receiver may have at once."""
        self._limit = limit
        self._under_way: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, receiver: str) -> Iterator[None]:
        """Count one: nobody's slow receiver takes the slots of all others.

        Raises:
            PostponeError: when the receiver has enough.

        """
        if self._under_way[receiver] >= self._limit:
            # Not all at once again.
            raise PostponeError(random.uniform(0.25, 1) * LONGEST_WAIT_SECONDS)  # noqa: S311 -- no secret
        self._under_way[receiver] += 1
        try:
            yield
        finally:
            self._under_way[receiver] -= 1
            if not self._under_way[receiver]:
                del self._under_way[receiver]


async def deliver(message: Deliver, run: Run[Resources]) -> Delivered:
    """Send an event to its endpoint, signed; only an answer of 2xx is a success.

    Raises:
        PostponeError: when the endpoint has had its share for now.
        PermanentError: ``webhook.deleted``.
        BlockedError: ``webhook.disabled``; ``webhook.gone`` for an answer of 410, which disables the endpoint.
        TemporaryError: ``webhook.failed`` for any other answer, and what `Client.send` raises.

    """
    resources = run.resources
    endpoint = await _endpoint(message, resources)
    with resources.deliveries.one(endpoint.id):
        await _take_turn(endpoint, resources)
        started = time.time()
        try:
            answer = await _send(message, endpoint, run)
        except StepError as error:
            await _note(message, endpoint, run, started, None, error)
            raise
        failure = _failure(answer)
        state = await _note(message, endpoint, run, started, answer, failure)
        if failure is None:
            return Delivered(status=answer.status, duration_ms=round(answer.duration_seconds * 1000))
        if state == "disabled" and not isinstance(failure, BlockedError):
            raise BlockedError("webhook.disabled", "the endpoint has failed for too long", failure.details)
        raise failure


async def _endpoint(message: Deliver, resources: Resources) -> Endpoint:
    settings = resources.settings
    if message.endpoint is None:
        secret = signing.secret_of(settings.link_secret.get_secret_value(), message.owner)
        url = message.url or ""
        return webhooks.Endpoint(
            f"callback {message.owner} {url}", message.owner, url, created_at=0, secrets=(webhooks.Secret(secret),)
        )
    endpoint_id = message.endpoint
    key = keys.webhook(settings.key_prefix, endpoint_id)
    fields: Any = await resources.ask(lambda redis: redis.hgetall(key), f"read {endpoint_id}")
    found = webhooks.Endpoint.of(endpoint_id, fields)
    if found is None:
        raise PermanentError("webhook.deleted", "the endpoint has been deleted")
    if found.disabled_at is not None:
        raise BlockedError("webhook.disabled", f"the endpoint is disabled: {found.disabled_reason}")
    return found


async def _take_turn(endpoint: Endpoint, resources: Resources) -> None:
    settings = resources.settings
    per_second = (endpoint.rate_per_second or settings.webhook_rate_per_second) * endpoint.share
    key = keys.webhook_rate(settings.key_prefix, endpoint.id)
    arguments = (key, 1000 / per_second, LONGEST_WAIT_SECONDS * 1000)
    wait_ms: int = await resources.ask(lambda redis: _RESERVE(redis, (), arguments), f"take a turn at {endpoint.id}")
    if wait_ms > LONGEST_WAIT_SECONDS * 1000:
        raise PostponeError(wait_ms / 1000)
    await asyncio.sleep(wait_ms / 1000)


async def _send(message: Deliver, endpoint: Endpoint, run: Run[Resources]) -> Answer:
    _, entry = webhooks.source_of(message.event) or ("", "0-0")
    event = Event(entry, message.type, json.loads(message.data))
    body = json.dumps(event.body(), ensure_ascii=False, separators=(",", ":")).encode()
    now = time.time()
    headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Content-Type": "application/json"}
    headers |= signing.headers(message.event, int(now), body, endpoint.signers(round(now * 1000)))
    propagate.inject(headers)
    return await run.resources.client.send(
        "POST",
        endpoint.url,
        headers,
        body,
        timeout_seconds=run.resources.settings.webhook_timeout_seconds,
        limit_bytes=ANSWER_BYTES,
    )


def _failure(answer: Answer) -> BlockedError | TemporaryError | None:
    status = answer.status
    if 200 <= status < 300:  # noqa: PLR2004 -- success
        return None
    message, details = f"the receiver answered {status}", {"status": status}
    if status == GONE:
        return BlockedError("webhook.gone", message, details)
    return TemporaryError("webhook.failed", message, details, retry_after.seconds(answer.header("retry-after")))


async def _note(
    message: Deliver,
    endpoint: Endpoint,
    run: Run[Resources],
    started: float,
    answer: Answer | None,
    failure: StepError | None,
) -> str:
    """Write an attempt down, with what follows from it for the endpoint; returns what `attempt.lua` does."""
    code = failure.code if failure else None
    counter = metrics.get_meter("offload").create_counter(
        "offload.webhook.attempts", description="Attempts to deliver an event, by outcome"
    )
    counter.add(1, {"offload.outcome": code or "delivered"})
    if message.endpoint is None:
        return "stored"
    outcome = "failed" if failure else "delivered"
    if answer is not None and answer.status in _TOO_MUCH:
        outcome = "too_much"
    elif answer is not None and answer.status == GONE:
        outcome = "gone"
    attempt = {
        "event": message.event,
        "type": message.type,
        "task_id": run.task_id,
        "number": run.attempt + 1,
        "at": round(started * 1000),
        "duration_ms": round((time.time() - started) * 1000),
        "status": answer.status if answer else None,
        "code": code,
    }
    settings = run.resources.settings
    request = {
        "prefix": settings.key_prefix, "endpoint": endpoint.id, "owner": endpoint.owner,
        "attempt": json.dumps(attempt), "outcome": outcome,
        "disable_after": settings.webhook_disable_after_seconds * 1000,
    }  # fmt: skip
    answered: bytes = await run.resources.ask(
        lambda redis: _ATTEMPT(redis, (), (json.dumps(request),)), f"note an attempt at {endpoint.id}"
    )
    return answered.decode()
