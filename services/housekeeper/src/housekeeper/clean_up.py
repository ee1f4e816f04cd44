"""The clean-up: files that nothing needs any more, and what is left of records that are gone."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from itertools import batched
from typing import TYPE_CHECKING, Any

from celery_leases.admin import Admin
from offload_core import blobs, keys
from offload_core.records import TERMINAL
from offload_core.task_store import TaskStore

if TYPE_CHECKING:
    import redis

    from housekeeper.settings import HousekeeperSettings

logger = logging.getLogger(__name__)


def clean_up(
    settings: HousekeeperSettings, client: redis.Redis, store: blobs.BlobStore, *, thorough: bool, now: datetime
) -> dict[str, float | str]:
    """Delete outputs past their retention, and uploads whose record is gone; `thorough` looks at Redis too.

    A record that is still there keeps its upload: a task that waits, or a dead letter, needs it. A dead letter keeps
    its task's outputs too: once it is redriven, its step wants what the steps before have made.
    """
    deleted = {"outputs": 0, "uploads": 0}
    oldest_output = now - timedelta(seconds=settings.output_retention_seconds)
    dead = _tasks_of_dead_letters(settings, client)
    for blob in store.list(blobs.OUTPUTS):
        if blob.modified_at >= oldest_output or _task_id(blob.key) in dead:
            continue
        if not _has_open_record(settings, client, blob.key):
            store.delete(blob.key)
            deleted["outputs"] += 1
    oldest_upload = now - timedelta(seconds=settings.orphan_grace_seconds)
    for blob in store.list(blobs.UPLOADS):
        if blob.modified_at < oldest_upload and not client.exists(_record_key(settings, blob.key)):
            store.delete(blob.key)
            deleted["uploads"] += 1
    if thorough:
        deleted["records"] = _expire_forgotten(settings, client)
        deleted["listed"] = _mend_lists(settings, client)
    logger.info("cleaned up: %s", deleted)
    return {**deleted}


def _task_id(blob_key: str) -> str:
    return blob_key.split("/")[1]


def _record_key(settings: HousekeeperSettings, blob_key: str) -> str:
    return keys.record(settings.key_prefix, _task_id(blob_key))


def _tasks_of_dead_letters(settings: HousekeeperSettings, client: redis.Redis) -> frozenset[str]:
    admin = Admin(client, settings.broker_prefix)
    message_keys = admin.dead_message_keys(admin.queues())
    return frozenset(keys.step_of(message_key.rsplit(":", 2)[0]).task_id for message_key in message_keys)


def _has_open_record(settings: HousekeeperSettings, client: redis.Redis, blob_key: str) -> bool:
    """Return whether the blob's task is still under way: a later step may want to read it."""
    state: Any = client.hget(_record_key(settings, blob_key), "state")
    return state is not None and state.decode() not in TERMINAL


def _mend_lists(settings: HousekeeperSettings, client: redis.Redis) -> int:
    """Put right the lists of tasks by state. Returns how many tasks were where they do not belong."""
    store, mended = TaskStore.of(settings), 0
    prefix = keys.tasks(settings.key_prefix, "", "").removesuffix(":")
    for key in client.scan_iter(match=f"{prefix}*", count=500):
        owner, _, state = key.decode().removeprefix(prefix).rpartition(":")
        for some in batched(client.zscan_iter(key, count=500), 500, strict=False):
            mended += store.mend(owner, state, [task_id.decode() for task_id, _ in some]).run(client)
    return mended


def _expire_forgotten(settings: HousekeeperSettings, client: redis.Redis) -> int:
    """Give a time to live to event streams whose record is gone. Returns how many there were."""
    forgotten = 0
    prefix = keys.events(settings.key_prefix, "")
    for key in client.scan_iter(match=f"{prefix}*", count=500):
        task_id = key.decode().removeprefix(prefix)
        if client.ttl(key) == -1 and not client.exists(keys.record(settings.key_prefix, task_id)):
            client.expire(key, settings.result_expires_seconds)
            forgotten += 1
    return forgotten
