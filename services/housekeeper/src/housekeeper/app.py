"""The housekeeper, and what its tasks work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from housekeeper.settings import HousekeeperSettings
from offload_contracts.contract import Queue
from offload_core.blobs import BlobStore
from offload_core.redis_client import connect
from offload_worker.health import HealthCheck
from offload_worker.worker import Worker

if TYPE_CHECKING:
    import redis


@dataclass(frozen=True, slots=True)
class Resources:
    """The settings, Redis, where files are, and what looks at both."""

    settings: HousekeeperSettings
    client: redis.Redis
    store: BlobStore
    health: HealthCheck


def _open(settings: HousekeeperSettings) -> Resources:
    client, store = connect(settings), BlobStore(settings)
    # In this order: what is slower comes last.
    health = HealthCheck(client, settings.key_prefix, {"redis": client.ping, "blob": lambda: store.exists("ping")})
    return Resources(settings, client, store, health)


worker = Worker("housekeeper", HousekeeperSettings, _open, queues=(Queue.MAINTENANCE,), pool="threads")
