"""The http-worker, and what its tasks work with."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from http_worker.client import Client
from http_worker.settings import HttpWorkerSettings
from http_worker.webhooks import Deliveries
from offload_contracts.contract import Queue
from offload_core.redis_client import connect
from offload_worker import Worker
from offload_worker.outages import wait_for_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import redis


@dataclass(frozen=True, slots=True)
class Resources:
    """The settings, how requests are sent, Redis, and how many webhooks are under way."""

    settings: HttpWorkerSettings
    client: Client
    connection: redis.Redis
    deliveries: Deliveries

    async def ask[T](self, action: Callable[[redis.Redis], T], what: str) -> T:
        """Ask Redis for something, waiting while it is unavailable; `action` must be safe to repeat."""
        return await asyncio.to_thread(wait_for_redis, lambda: action(self.connection), what)


@contextlib.asynccontextmanager
async def _lifespan(settings: HttpWorkerSettings) -> AsyncIterator[Resources]:
    client, connection = Client(settings), connect(settings)
    try:
        yield Resources(settings, client, connection, Deliveries(settings.webhook_connections))
    finally:
        await client.aclose()
        connection.close()


worker = Worker("http-worker", HttpWorkerSettings, _lifespan, queues=(Queue.CALLS, Queue.WEBHOOKS), pool="asyncio")
