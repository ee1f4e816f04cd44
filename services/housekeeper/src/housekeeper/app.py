"""The housekeeper, and what its tasks work with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from housekeeper.settings import HousekeeperSettings
from offload_contracts.contract import Queue
from offload_core.blobs import BlobStore
from offload_core.redis_client import connect
from offload_worker import Worker
from offload_worker.health import HealthCheck

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis


@dataclass(frozen=True, slots=True)
class Resources:
    """The settings, Redis, where files are, and what looks at both."""

    settings: HousekeeperSettings
    client: redis.Redis
    store: BlobStore
    health: HealthCheck


@contextlib.contextmanager
def _lifespan(settings: HousekeeperSettings) -> Iterator[Resources]:
    client, store = connect(settings), BlobStore(settings)
    # In this order: what is slower comes last.
    health = HealthCheck(client, settings.key_prefix, {"redis": client.ping, "blob": lambda: store.exists("ping")})
    yield Resources(settings, client, store, health)


worker = Worker("housekeeper", HousekeeperSettings, _lifespan, queues=(Queue.MAINTENANCE,), pool="threads")
