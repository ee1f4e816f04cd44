"""Bulk operations, piece by piece: each is small enough that nobody else waits for Redis meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from offload_core import keys
from offload_core.bulk import KEEP_SECONDS, Bulk
from offload_core.errors import PermanentError, PostponeError
from offload_core.records import TERMINAL
from offload_core.task_store import Found, Place, TaskStore
from offload_worker.outages import wait_for_redis

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from housekeeper.settings import HousekeeperSettings
    from offload_core.blobs import BlobStore

# One script does as many tasks as take it about so long: nobody else waits longer for Redis.
PIECE_SECONDS = 0.004
MAX_PIECE = 50
# One look at the lists examines so many.
EXAMINED = 250
# Then it goes back to its queue, so that one that stops, or is told to, waits for no long one.
RUN_SECONDS = 20.0


class _Aborted(Exception):  # noqa: N818 -- it is no error
    """It is not to go on."""


def run(settings: HousekeeperSettings, client: redis.Redis, store: BlobStore, bulk_id: str) -> dict[str, float | str]:
    """Go on with an operation, to its end or for a while; returns what was done.

    Raises:
        PermanentError: ``bulk.not_found``.
        PostponeError: when there is more to do.

    """
    key, tasks = keys.bulk(settings.key_prefix, bulk_id), TaskStore.of(settings)
    bulk = _read(client, key, bulk_id)
    ends_at = time.monotonic() + RUN_SECONDS
    pieces = _Pieces(bulk, client, tasks, store)
    try:
        is_over = (_these if bulk.task_ids is not None else _wanted)(bulk, client, tasks, pieces, ends_at)
    except _Aborted:
        is_over = True
    if not is_over:
        raise PostponeError(0)
    bulk = _read(client, key, bulk_id)
    _end(settings, client, key, bulk)
    return {"matched": bulk.matched, "done": bulk.done, "skipped": sum(bulk.skipped.values())}


class _Pieces:
    """Does an operation to some tasks at a time: to fewer when that took long, to more when it did not."""

    def __init__(self, bulk: Bulk, client: redis.Redis, tasks: TaskStore, store: BlobStore) -> None:
        self._bulk, self._client, self._tasks, self._store = bulk, client, tasks, store
        self.size = 5

    def do(self, task_ids: Sequence[str], place: int | Place) -> None:
        """Do it to these tasks, and go on at the `place`.

        Raises:
            _Aborted: when it is not to go on.

        """
        bulk = self._bulk
        if bulk.action == "delete" and not bulk.dry_run:
            for task_id in task_ids:
                _delete_files(self._client, self._tasks, self._store, task_id)
        call = bulk.piece(self._tasks, task_ids, place)
        began = time.monotonic()
        is_aborted = wait_for_redis(lambda: call.run(self._client), f"go on with {bulk.id}")
        took = time.monotonic() - began
        if took > PIECE_SECONDS:
            self.size = max(self.size // 2, 1)
        elif len(task_ids) >= self.size:
            self.size = min(self.size + 1, MAX_PIECE)
        if is_aborted:
            raise _Aborted


def _these(bulk: Bulk, _client: redis.Redis, _tasks: TaskStore, pieces: _Pieces, ends_at: float) -> bool:
    task_ids, begin = bulk.task_ids or (), bulk.place or 0
    while begin < len(task_ids):
        if time.monotonic() > ends_at:
            return False
        piece = task_ids[begin : begin + pieces.size]
        begin += len(piece)
        pieces.do(piece, begin)
    return True


def _wanted(bulk: Bulk, client: redis.Redis, tasks: TaskStore, pieces: _Pieces, ends_at: float) -> bool:
    place = Place(*bulk.place) if bulk.place else None
    while time.monotonic() < ends_at:
        call = tasks.find(bulk.wanted, ("kind",), limit=pieces.size, examine=EXAMINED, place=place)
        found = Found.of(wait_for_redis(lambda call=call: call.run(client), f"find tasks of {bulk.id}"))  # type: ignore[misc]  # a default binds it
        place = found.place
        pieces.do([task_id for task_id, _ in found.rows], place)
        if found.is_end:
            return True
    return False


def _delete_files(client: redis.Redis, tasks: TaskStore, store: BlobStore, task_id: str) -> None:
    """Delete a task's files before its record, without which nobody would find them. One under way keeps its own."""
    state: Any = wait_for_redis(
        lambda: client.hget(keys.record(tasks.prefix, task_id), "state"), f"read the state of {task_id}"
    )
    if state is not None and state.decode() in TERMINAL:
        store.delete_files_of(task_id)


def _read(client: redis.Redis, key: str, bulk_id: str) -> Bulk:
    fields: Any = wait_for_redis(lambda: client.hgetall(key), f"read {bulk_id}")
    bulk = Bulk.of(bulk_id, fields)
    if bulk is None:
        raise PermanentError("bulk.not_found", "there is no such bulk operation")
    return bulk


def _end(settings: HousekeeperSettings, client: redis.Redis, key: str, bulk: Bulk) -> None:
    def end() -> None:
        with client.pipeline(transaction=True) as pipe:
            pipe.hset(key, "state", "aborted" if bulk.abort_requested else "done")
            pipe.hsetnx(key, "finished_at", str(round(time.time() * 1000)))
            pipe.expire(key, KEEP_SECONDS)
            pipe.zrem(keys.bulks(settings.key_prefix), bulk.id)
            pipe.execute()

    wait_for_redis(end, f"end {bulk.id}")
