"""A pool whose steps wait on the event loop instead of each in a thread: hundreds of slow requests in one process.

Celery's tracer, which calls a step's function and stores what it gave, is no coroutine. So it runs in a greenlet on
the loop's thread: where the function is awaited the greenlet gives the thread back, and it goes on when the result is
there. What blocks, as Redis does, goes to one of a few threads for the while.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import logging
from typing import TYPE_CHECKING, Any

from celery.concurrency.base import BasePool, apply_target
from celery.concurrency.thread import ApplyResult
from greenlet import getcurrent, greenlet

from offload_worker import event_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

logger = logging.getLogger(__name__)

# Each waits for Redis: a script takes about a millisecond.
THREADS = 8


class _Step(greenlet):
    """The tracer of one step; its parent is the loop."""

    def __init__(self, function: Callable[[], None], threads: concurrent.futures.Executor) -> None:
        super().__init__(function)
        self._threads = threads
        # As a task of asyncio has it: what the step sets (its span, its task id) is its own.
        self.gr_context = contextvars.copy_context()

    def wait[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, in the caller's context."""
        task = asyncio.get_running_loop().create_task(_outcome(coroutine), context=contextvars.copy_context())
        result, error = self._until(task)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # it is there, or the error is

    def blocking[T](self, call: Callable[[], T]) -> T:
        """Do something that blocks, in a thread."""
        context = contextvars.copy_context()
        return self._until(asyncio.get_running_loop().run_in_executor(self._threads, context.run, call))

    def _until[T](self, awaited: Awaitable[T]) -> T:
        loop = self.parent
        assert loop is not None  # noqa: S101 -- of the first greenlet of a thread alone
        result: T = loop.switch(awaited)
        return result


async def _outcome[T](coroutine: Coroutine[Any, Any, T]) -> tuple[T | None, BaseException | None]:
    """Return what a coroutine returns, or raises: ``sys.exit()`` in it would end the loop."""
    try:
        return await coroutine, None
    except BaseException as error:  # noqa: BLE001 -- it is raised where the coroutine is waited for
        return None, error


def _current() -> _Step | None:
    current = getcurrent()
    return current if isinstance(current, _Step) else None


class TaskPool(BasePool):
    """Runs up to `limit` steps at once, on the process's event loop."""

    body_can_be_buffer = True
    signal_safe = False

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 -- Celery's signature
        """Make room for what will run."""
        super().__init__(*args, **options)
        event_loop.current_waiter = _current
        self._slots = asyncio.Semaphore(self.limit)
        self._threads = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="blocking")
        self._running: set[concurrent.futures.Future[None]] = set()
        # Of `asyncio.to_thread`, which waits for Redis too: nobody waits for a thread while Redis is unavailable.
        threads = concurrent.futures.ThreadPoolExecutor(self.limit, thread_name_prefix="to-thread")
        event_loop.loop().call_soon_threadsafe(event_loop.loop().set_default_executor, threads)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,  # noqa: ANN401 -- Celery's signature
        kwargs: Any = None,  # noqa: ANN401 -- as above
        callback: Callable[[Any], object] | None = None,
        accept_callback: Callable[..., object] | None = None,
        **_: object,
    ) -> ApplyResult:
        """Run one step, as soon as there is a slot."""

        def ended(result: object) -> None:
            # Acknowledges the message.
            if callback is not None:
                event_loop.blocking(functools.partial(callback, result))

        def trace() -> None:
            apply_target(target, args, kwargs, callback=ended, accept_callback=accept_callback)

        future = asyncio.run_coroutine_threadsafe(self._run(trace), event_loop.loop())
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return ApplyResult(future)

    def on_stop(self) -> None:
        """Wait for what runs. What has no slot yet is not begun any more."""
        concurrent.futures.wait(set(self._running))
        self._threads.shutdown()

    async def _run(self, trace: Callable[[], None]) -> None:
        async with self._slots:
            if not self.active:
                return
            step = _Step(trace, self._threads)
            try:
                awaited = step.switch()
                while not step.dead:
                    try:
                        result = await awaited
                    except BaseException as error:  # noqa: BLE001 -- the step is told of it
                        awaited = step.throw(error)
                    else:
                        awaited = step.switch(result)
            except Exception:
                logger.exception("a step ended outside of what traces it")

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "running": len(self._running)}
