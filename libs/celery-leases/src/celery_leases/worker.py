"""What the transport asks the Celery worker that it runs in: which tasks it knows, what runs, whether it stops.

kombu's channels know nothing of Celery; a worker makes itself known by its ``worker_ready`` signal. In any other
process (a producer, a plain kombu consumer) there is no worker and every answer is the careful one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import weakref
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import signals
from celery.exceptions import Reject
from celery.worker import state

from celery_leases.options import InvalidOptionError

logger = logging.getLogger(__name__)

_consumer: weakref.ref[Any] | None = None
# When each job of the pool was given to a child that has not begun it, as far as the loop has seen.
_given_at: dict[int, float] = {}
_looked_at = 0.0
# So often the loop looks.
LOOK_SECONDS = 1.0
# So much later than the loop, tasks that wait for Redis find that it answers.
NOTICE_SECONDS = 5.0
# Why a task rejected its message, by task id: Celery tells its signal, and not the broker.
_rejections: dict[str, str] = {}


@signals.worker_ready.connect(weak=False)
def _remember(sender: Any, **_: object) -> None:  # noqa: ANN401 -- Celery's consumer is untyped
    global _consumer  # noqa: PLW0603 -- one worker a process
    _consumer = weakref.ref(sender)
    _guard_slots(sender)
    if sender.pool.uses_semaphore:
        _keep_begun_jobs(sender.pool)
    else:
        _tell_of_exits(sender.pool)


def _guard_slots(consumer: Any) -> None:  # noqa: ANN401 -- Celery's consumer is untyped
    """End a message that raises when its task is handed to the pool, and free the slot that it was given.

    Celery has taken the slot by then and would never give it back: a few such messages would stop a worker.
    """
    controller = consumer.controller
    process = controller._process_task  # noqa: SLF001 -- Celery has no hook between the slot and the pool
    has_slots = controller.process_task == controller._process_task_sem  # noqa: SLF001 -- as above

    def guarded(request: Any) -> None:  # noqa: ANN401 -- Celery's request is untyped
        try:
            process(request)
        except Exception as error:
            end = getattr(request.message.channel, "end_unusable", None)
            if end is None or is_active(request.message.delivery_tag):
                raise
            end(request.message.delivery_tag, error)
            if has_slots:
                controller._quick_release()  # noqa: SLF001 -- as Celery itself does for a revoked task

    if has_slots:
        controller._process_task = guarded  # noqa: SLF001 -- as above
    else:
        # Where tasks go that waited for their rate limit.
        consumer.on_task_request = guarded


def _tell_of_exits(pool: Any) -> None:  # noqa: ANN401 -- Celery's pool is untyped
    """Let the request of a task that runs in the worker's own process hear of an exception that is no `Exception`.

    Celery makes a lost worker of it, as a pool's child would be, and hands that over in a shape that its request does
    not expect. Nobody would settle the message, and its lease would be renewed for ever.
    """
    apply = pool.on_apply

    def on_apply(target: Any, args: Any = None, kwargs: Any = None, callback: Any = None, **options: Any) -> Any:  # noqa: ANN401 -- as above
        def answer(result: Any) -> None:  # noqa: ANN401 -- as above
            callback((1, result, 0.0) if isinstance(result, ExceptionInfo) else result)

        return apply(target, args, kwargs, callback=answer, **options)

    pool.on_apply = on_apply


def _keep_begun_jobs(pool: Any) -> None:  # noqa: ANN401 -- Celery's pool is untyped
    """Let the pool keep the jobs that its children have.

    When a connection is lost, and when the worker stops, Celery drops every job that its child has not confirmed yet,
    whether the child runs it or not: its result is thrown away, its message is delivered a second time, and the child
    waits for half a minute for somebody to read the result.
    """
    flush = pool.flush

    def flush_the_rest() -> None:
        begun = _unconfirmed_jobs()
        try:
            for job in begun:
                job._accepted = True  # noqa: SLF001 -- what flush() asks
            flush()
        finally:
            for job in begun:
                job._accepted = False  # noqa: SLF001 -- its child will tell

    pool.flush = flush_the_rest


def end_hung_children(limit_seconds: float) -> None:
    """End each child of a prefork pool that has not begun a task `limit_seconds` after it was given to it.

    Its time limits begin with the task. A child that hangs before (stopped by a signal, in a lock that it was forked
    with) would keep the task for ever. Celery gives the task to another child then. Called by the consumer's loop.
    """
    global _looked_at  # noqa: PLW0603 -- one worker a process
    now = time.monotonic()
    if now - _looked_at < LOOK_SECONDS:
        return
    if now - _looked_at > 5 * LOOK_SECONDS:
        # The loop stood still: children may have begun long ago, and it has not read so yet.
        _given_at.clear()
    _looked_at = now
    busy = {pid for job in _jobs() if job._accepted for pid in job.worker_pids()}  # noqa: SLF001 -- Celery has no way to ask
    given = {job._job: job._write_to for job in _unconfirmed_jobs()}  # noqa: SLF001 -- as above
    for number in _given_at.keys() - given.keys():
        del _given_at[number]
    for number, child in given.items():
        if now - _given_at.setdefault(number, now) > limit_seconds and child.pid not in busy:
            logger.error("ending the pool's process %d: it has not begun a task for %g s", child.pid, limit_seconds)
            del _given_at[number]
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)


def give_time_back(timer: Any) -> None:  # noqa: ANN401 -- kombu's timer is untyped
    """Let the time limits of a prefork pool's tasks not count how long the consumer's loop stood still.

    It does so while it connects again. When it goes on, Celery would end at once each task whose limit had passed
    meanwhile, whether that had long returned and its result was about to be read, or waited for Redis itself, as this
    process did. Called before the loop goes on.
    """
    global _looked_at
    jobs = {job._job for job in _jobs() if job._accepted}  # noqa: SLF001 -- Celery has no way to ask
    if not jobs or not _looked_at:
        return
    now = time.monotonic()
    stood_still, _looked_at = now - _looked_at, now
    seconds = stood_still + min(stood_still, NOTICE_SECONDS)
    # Children may have begun long ago, and the loop has not read so yet.
    _given_at.clear()
    consumer = _worker()
    pool = consumer.pool._pool  # noqa: SLF001 -- as above
    limits = (pool._on_soft_timeout, pool._on_hard_timeout)  # noqa: SLF001 -- as above
    for due_at, _, entry in timer.queue:
        if entry.fun in limits and not entry.canceled and entry.args[0] in jobs:
            entry.cancel()
            pool._tref_for_id[entry.args[0]] = timer.call_at(due_at + seconds, entry.fun, entry.args)  # noqa: SLF001 -- as above


def _jobs() -> list[Any]:
    """Return what a prefork pool was given and has not ended; nothing where tasks run in this process."""
    consumer = _worker()
    if consumer is None or runs_tasks_itself() or consumer.pool._pool is None:  # noqa: SLF001 -- Celery has no way to ask
        return []
    return list(consumer.pool._pool._cache.values())  # noqa: SLF001 -- as above


def _unconfirmed_jobs() -> list[Any]:
    """Return the jobs that a child of the pool has, and has not confirmed so far."""
    return [job for job in _jobs() if job._write_to is not None and not job._accepted]  # noqa: SLF001 -- as above


@signals.task_failure.connect(weak=False)
def _note_rejection(task_id: str, exception: object, **_: object) -> None:
    if isinstance(exception, Reject) and not exception.requeue and exception.reason:
        _rejections[task_id] = str(exception.reason)


def refuse_green_pools() -> None:
    """Refuse a worker whose pool is gevent or eventlet.

    Their tasks share one thread with what renews the leases: a task that computes for longer than a lease would lose
    it, run again, and be buried in the end although it succeeds.

    Raises:
        InvalidOptionError: with the pools that can be used.

    """
    for name in ("gevent", "eventlet"):
        if f"celery.concurrency.{name}" in sys.modules:
            message = f"celery-leases does not support the pool {name}: use --pool threads, prefork or solo"
            raise InvalidOptionError(message)


def revoke(task_id: str) -> None:
    """Let this worker know that a task is revoked: Celery then ends it as such when it is handed over."""
    state.revoked.add(task_id)


def rejection(task_id: object) -> str:
    """Return, once, why a task rejected its message: what it gave to Celery's ``Reject``, or a general word."""
    return _rejections.pop(str(task_id), "message.rejected")


def _worker() -> Any:  # noqa: ANN401 -- Celery's consumer is untyped
    return None if _consumer is None else _consumer()


def is_here() -> bool:
    """Return whether this process is a Celery worker."""
    return _worker() is not None


def runs_tasks_itself() -> bool:
    """Return whether this is a worker whose tasks run in its own process, as threads or one by one."""
    consumer = _worker()
    return consumer is not None and not consumer.pool.uses_semaphore


def knows(task_name: str | None) -> bool:
    """Return whether this process can run the task. A process that is not a worker is not asked to judge."""
    consumer = _worker()
    return consumer is None or task_name is None or task_name in consumer.app.tasks


def runs_of(task_name: str) -> int:
    """Return how many messages of a task this worker has taken and not ended."""
    return sum(request.name == task_name for request in tuple(state.reserved_requests))


def is_stopping() -> bool:
    """Return whether the worker has begun to stop."""
    # An exit code, of which 0 is the usual one: only None and False mean that it goes on.
    return any(code is not None and code is not False for code in (state.should_stop, state.should_terminate))


def goes_on() -> bool:
    """Return whether this is a worker that is not stopping: then its tasks outlive a closed channel."""
    return _worker() is not None and not is_stopping()


def is_working() -> bool:
    """Return whether a task runs, or has been given to a child of the pool."""
    return bool(_jobs() or state.active_requests)


def is_active(delivery_tag: str) -> bool:
    """Return whether the message of this delivery tag has been given to a task that still runs."""
    if any(request.message.delivery_tag == delivery_tag for request in tuple(state.active_requests)):
        return True
    # What a child has, and has not confirmed so far. The callback is the request's.
    begun = (job._callback.__self__ for job in _jobs() if job._write_to is not None)  # noqa: SLF001
    return any(request.message.delivery_tag == delivery_tag for request in begun)


def cancel(delivery_tag: str) -> None:
    """End the task of a lost lease where the pool can (prefork): another worker does it already."""
    consumer = _worker()
    if consumer is None or runs_tasks_itself():
        return
    for request in tuple(state.active_requests):
        if request.message.delivery_tag == delivery_tag:
            logger.warning("ending %s[%s]: its lease was lost", request.name, request.id)
            request.cancel(consumer.pool, emit_retry=False)
