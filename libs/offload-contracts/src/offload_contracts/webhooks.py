"""Webhooks: the delivery of one event to one endpoint."""

from __future__ import annotations

from offload_contracts.contract import Message, Queue, Result, TaskContract


class Deliver(Message):
    """One event for one endpoint, or for the callback of a task."""

    # The `webhook-id`, the same on every attempt and for every endpoint.
    event: str
    type: str
    # What happened, as JSON.
    data: str
    # Whose event it is.
    owner: str
    endpoint: str | None = None
    # Of a callback.
    url: str | None = None


class Delivered(Result):
    """The receiver has taken it."""

    status: int
    duration_ms: int


WEBHOOK_DELIVER = TaskContract("webhook.deliver.v1", Queue.WEBHOOKS, Deliver, Delivered, is_internal=True)
