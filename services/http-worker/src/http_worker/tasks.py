"""The http-worker's tasks: unwrap the message, call one function, wrap the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from http_worker import calls, webhooks
from http_worker.app import worker
from offload_contracts.calls import HTTP_CALL, Call, CallResult
from offload_contracts.webhooks import WEBHOOK_DELIVER, Deliver, Delivered
from offload_worker.policy import Policy

if TYPE_CHECKING:
    from http_worker.app import Resources
    from http_worker.settings import HttpWorkerSettings
    from offload_worker import Run


def _calls(settings: HttpWorkerSettings) -> Policy:
    return Policy(settings.call_retry_seconds)


@worker.task(HTTP_CALL, policy=_calls)
async def call(message: Call, run: Run[Resources]) -> CallResult:
    """Call an HTTP server, and keep what it answers."""
    return await calls.call(message, run)


def _webhooks(settings: HttpWorkerSettings) -> Policy:
    return Policy(settings.webhook_retry_seconds, jitter_both_ways=True)


@worker.task(WEBHOOK_DELIVER, policy=_webhooks)
async def deliver(message: Deliver, run: Run[Resources]) -> Delivered:
    """Tell an endpoint of an event."""
    return await webhooks.deliver(message, run)
