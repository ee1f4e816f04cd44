"""What a worker's functions work with: opened once in each process, closed when the process ends."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any

from celery import signals

from offload_core.errors import TemporaryError
from offload_worker import event_loop

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

type Resources[C] = AbstractContextManager[C] | AbstractAsyncContextManager[C]


class Lifespan[C]:
    """Opens a context manager in the process that uses it: a pool's child never shares its parent's connections."""

    def __init__(self, make: Callable[[], Resources[C]] | None) -> None:
        """Take what makes the context manager; None where functions need nothing."""
        self._make = make
        self._lock = threading.Lock()
        self._opened: dict[int, tuple[Any, contextlib.ExitStack]] = {}

    def follow(self, pool: str) -> None:
        """Open it when a process of this pool starts, and close it when the process ends."""
        starts, ends = (
            (signals.worker_process_init, signals.worker_process_shutdown)
            if pool == "prefork"
            else (signals.worker_init, signals.worker_shutdown)
        )
        starts.connect(lambda **_: self._open_early(), weak=False)
        ends.connect(lambda **_: self.close(), weak=False)

    def resources(self) -> Any:  # noqa: ANN401 -- None where there is no context manager
        """Return what it gives in this process.

        Raises:
            TemporaryError: ``worker.not_ready`` while it cannot be opened: the step is tried again.

        """
        if self._make is None:
            return None
        if os.getpid() not in self._opened:
            event_loop.blocking(functools.partial(self._open_once, self._make))
        return self._opened[os.getpid()][0]

    def close(self) -> None:
        """Close it in this process. What it raises is logged: the process ends."""
        opened = self._opened.pop(os.getpid(), None)
        if opened is not None:
            try:
                opened[1].close()
            except Exception:
                logger.exception("the worker's lifespan did not end well")

    def _open_early(self) -> None:
        # A run tries again, and tells of it.
        with contextlib.suppress(TemporaryError):
            self.resources()

    def _open_once(self, make: Callable[[], Resources[C]]) -> None:
        with self._lock:
            if os.getpid() not in self._opened:
                self._open(make)

    def _open(self, make: Callable[[], Resources[C]]) -> None:
        stack = contextlib.ExitStack()
        try:
            manager = make()
            if isinstance(manager, AbstractAsyncContextManager):
                value: Any = event_loop.run(manager.__aenter__())
                stack.push(lambda *error: event_loop.run(manager.__aexit__(*error)))
            else:
                value = stack.enter_context(manager)
        except Exception as error:
            logger.exception("the worker's lifespan cannot begin")
            raise TemporaryError("worker.not_ready", "the worker cannot open what it works with") from error
        self._opened[os.getpid()] = (value, stack)
