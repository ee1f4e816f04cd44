"""What came of a run: stored where the application keeps its results, and in the record."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from celery import current_app, states
from celery.app import backends
from celery.backends.base import BaseBackend, DisabledBackend
from celery.exceptions import Reject, TaskRevokedError
from kombu.exceptions import EncodeError

from celery_leases import failures
from offload_core import keys
from offload_worker import dead_letters
from offload_worker.adoption.values import value_of
from offload_worker.backend import RecordBackend
from offload_worker.fence import Fence
from offload_worker.outages import wait_for_redis

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from offload_core.keys import Step
    from offload_worker.adoption.settings import AdoptionSettings

logger = logging.getLogger(__name__)

# Of the steps that a process has to do with at one time.
STEPS_KEPT = 1024


class Records(RecordBackend):
    """The records of an adopted application's tasks, whose ids are the application's own."""

    def __init__(self, app: Celery, settings: AdoptionSettings) -> None:
        """Take the settings, which an application of somebody else's does not have."""
        super().__init__(app, settings=settings)
        # Said once, before the message is published, and never changed.
        self._found = functools.lru_cache(STEPS_KEPT)(self._find)

    def step(self, celery_id: str) -> Step:
        """Return which step of which task a Celery id is. Waits for Redis."""
        return self._found(celery_id)

    def _find(self, celery_id: str) -> Step:
        key = keys.step(self.settings.key_prefix, celery_id)
        found: Any = wait_for_redis(lambda: self.client.get(key), f"find {celery_id}")
        return keys.adopted_step(celery_id, found)


class RecordedBackend(BaseBackend):
    """Mixed into the application's own backend: what that is told, the record is told after it.

    In this order, because the record is what a second run is refused by: a run that died between the two is found by
    its result, and is not repeated.
    """

    records: Records

    @property
    def keeps_results(self) -> bool:
        """Whether the application has a result backend at all."""
        return not isinstance(self, DisabledBackend)

    def own[T](self, action: Callable[[], T]) -> T:
        """Do something with the application's backend, and wait for it where it is a Redis.

        What else goes wrong gives the message back: the task has not ended before its result is stored.
        """
        try:
            return wait_for_redis(action, "the application's result backend")
        except (EncodeError, Reject):
            raise
        except Exception as error:
            logger.exception("the application's result backend cannot be used: the message goes back to its queue")
            raise Reject(f"result backend: {type(error).__name__}", requeue=True) from error

    def own_done(self, task_id: str, result: object, request: Any) -> None:  # noqa: ANN401 -- Celery's request
        """Tell the application's backend alone of a success."""
        super().mark_as_done(task_id, result, request=request)

    def own_revoked(self, task_id: str, reason: str, request: Any) -> None:  # noqa: ANN401 -- Celery's request
        """Tell the application's backend alone that a task was cancelled, and with it what its chain leads to."""
        super().mark_as_revoked(task_id, reason, request=request)
        self._fail_chain(request.chain, TaskRevokedError(reason), state=states.REVOKED)

    def own_outcome(self, task_id: str) -> dict[str, Any] | None:
        """Return the result's metadata, or None where the task has not ended."""
        if not self.keeps_results:
            return None
        meta: dict[str, Any] = self.own(lambda: self.get_task_meta(task_id, cache=False))
        return meta if meta["status"] in states.READY_STATES else None

    # -- what Celery calls

    def mark_as_done(self, task_id: str, result: object, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- as Celery has it
        """Store what a function gave."""
        own = super().mark_as_done
        self.own(lambda: own(task_id, result, *args, **kwargs))
        self.records.mark_as_done(task_id, value_of(result), *args, **kwargs)

    def mark_as_failure(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- as Celery has it
        """Store why a task failed; its error callbacks are called."""
        own = super().mark_as_failure
        self.own(lambda: own(*args, **kwargs))
        self.records.mark_as_failure(*args, **kwargs)

    def mark_as_retry(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- as Celery has it
        """Store that a task is tried again, for its last error."""
        own = super().mark_as_retry
        self.own(lambda: own(*args, **kwargs))
        self.records.mark_as_retry(*args, **kwargs)

    def mark_as_revoked(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- as Celery has it
        """Store that a task was revoked, or had expired."""
        own = super().mark_as_revoked
        self.own(lambda: own(*args, **kwargs))
        self.records.mark_as_revoked(*args, **kwargs)

    def store_result(
        self,
        task_id: str,
        result: Any,  # noqa: ANN401 -- any state's
        state: str,
        traceback: object = None,
        request: Any = None,  # noqa: ANN401 -- Celery's
        **kwargs: Any,  # noqa: ANN401 -- the backend's own
    ) -> Any:  # noqa: ANN401 -- as Celery has it
        """Store a state. One of the application's own that says how far the task is shows in the record too."""
        stored = super().store_result(task_id, result, state, traceback=traceback, request=request, **kwargs)
        if state not in states.ALL_STATES and isinstance(result, dict) and request is not None:
            done, total = result.get("current", result.get("done")), result.get("total")
            if isinstance(done, int) and isinstance(total, int):
                call = self.records.store.progress(self.records.step(task_id), Fence.of(request), done, total)
                self.records.run(call, f"progress of {task_id}")
        return stored


def record(app: Celery, settings: AdoptionSettings) -> None:
    """Let an application's result backend tell the records too."""
    own, url = backends.by_url(app.backend_cls or app.conf.result_backend, app.loader)
    recorded: Any = type(f"Recorded{own.__name__}", (RecordedBackend, own), {"records": Records(app, settings)})

    def make(app: Celery, **_: object) -> Any:  # noqa: ANN401 -- a backend of the application's
        return recorded(app=app, url=url)

    app.backend_cls = make
    # Whatever this thread has asked for before.
    app._backend_cache = None  # noqa: SLF001 -- Celery has no way to change it
    vars(app._local).pop("backend", None)  # noqa: SLF001 -- the same


def tell(message: dict[str, Any], reason: str) -> None:
    """End the task of a buried message, in its record and in the application's backend."""
    backend = current_app.backend
    dead_letters.tell(backend.records, message, reason)
    failures.store_failure(message, reason)
