"""What the transport asks the Celery worker that it runs in: which tasks it knows, what runs, whether it stops.

kombu's channels know nothing of Celery; a worker makes itself known by its ``worker_ready`` signal. In any other
process (a producer, a plain kombu consumer) there is no worker and every answer is the careful one.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any

from celery import signals
from celery.worker import state

logger = logging.getLogger(__name__)

_consumer: weakref.ref[Any] | None = None


@signals.worker_ready.connect(weak=False)
def _remember(sender: Any, **_: object) -> None:  # noqa: ANN401 -- Celery's consumer is untyped
    global _consumer  # noqa: PLW0603 -- one worker a process
    _consumer = weakref.ref(sender)


def knows(task_name: str) -> bool:
    """Return whether this process can run the task. A process that is not a worker is not asked to judge."""
    consumer = _consumer and _consumer()
    return consumer is None or task_name in consumer.app.tasks


def is_stopping() -> bool:
    """Return whether the worker has begun to stop."""
    return state.should_stop not in {None, False} or state.should_terminate not in {None, False}


def goes_on() -> bool:
    """Return whether this is a worker that is not stopping: then its tasks outlive a closed channel."""
    return _consumer is not None and _consumer() is not None and not is_stopping()


def is_working() -> bool:
    """Return whether a task runs."""
    return bool(state.active_requests)


def is_active(delivery_tag: str) -> bool:
    """Return whether the message of this delivery tag has been given to a task that still runs."""
    return any(request.message.delivery_tag == delivery_tag for request in tuple(state.active_requests))


def cancel(delivery_tag: str) -> None:
    """End the task of a lost lease where the pool can (prefork): another worker does it already."""
    consumer = _consumer and _consumer()
    if consumer is None or not getattr(consumer.pool, "uses_semaphore", False):
        return
    for request in tuple(state.active_requests):
        if request.message.delivery_tag == delivery_tag:
            logger.warning("ending %s[%s]: its lease was lost", request.name, request.id)
            request.cancel(consumer.pool, emit_retry=False)
