"""The event loop that asynchronous functions run in: one for each process, in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import threading
from typing import TYPE_CHECKING, Any, Protocol

from billiard.exceptions import SoftTimeLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}


class Waiter(Protocol):
    """A step that runs on the loop itself, and lets it go on while it waits: see `asyncio_pool`."""

    def wait[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, in the caller's context."""

    def blocking[T](self, call: Callable[[], T]) -> T:
        """Do something that blocks, in a thread."""


def _no_waiter() -> Waiter | None:
    return None


# Gives the step that is the caller, where the pool's steps run on the loop. Set by that pool.
current_waiter: Callable[[], Waiter | None] = _no_waiter


def run[T](coroutine: Coroutine[Any, Any, T], limit_seconds: float | None = None) -> T:
    """Run a coroutine to its end, in the caller's context; returns what it returns.

    Whatever ends the wait, as a time limit does, cancels the coroutine and waits for it to end.

    Raises:
        SoftTimeLimitExceeded: after `limit_seconds`.

    """
    if limit_seconds is not None:
        coroutine = _bounded(coroutine, limit_seconds)
    waiter = current_waiter()
    return _run_from_outside(coroutine) if waiter is None else waiter.wait(coroutine)


def blocking[T](call: Callable[[], T]) -> T:
    """Do something that waits for more than the loop, as for Redis: the loop goes on meanwhile."""
    waiter = current_waiter()
    return call() if waiter is None else waiter.blocking(call)


def loop() -> asyncio.AbstractEventLoop:
    """Return this process's loop: one that was made before a fork has no thread here."""
    with _lock:
        own = _loops.get(os.getpid())
        if own is None:
            own = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=own.run_forever, name="event-loop", daemon=True).start()
        return own


class Limit:
    """The soft time limit of a coroutine. It can stand still, for whoever calls: any thread."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        """Take the timeout that cancels it."""
        self._timeout, self._loop = timeout, asyncio.get_running_loop()
        self._waits = 0
        self._left = 0.0

    def suspend(self) -> None:
        """Stand still."""
        self._loop.call_soon_threadsafe(self._stop, self._loop.time())

    def resume(self) -> None:
        """Go on."""
        self._loop.call_soon_threadsafe(self._go)

    def _stop(self, now: float) -> None:
        when = self._timeout.when()
        self._waits += 1
        if self._waits == 1 and when is not None:
            self._left = when - now
            # The coroutine may have ended meanwhile.
            with contextlib.suppress(RuntimeError):
                self._timeout.reschedule(None)

    def _go(self) -> None:
        self._waits -= 1
        if self._waits == 0:
            with contextlib.suppress(RuntimeError):
                self._timeout.reschedule(self._loop.time() + self._left)


# That of the coroutine that is the caller, or has called it.
current_limit: contextvars.ContextVar[Limit | None] = contextvars.ContextVar("limit", default=None)


async def _bounded[T](coroutine: Coroutine[Any, Any, T], seconds: float) -> T:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            current_limit.set(Limit(limit))
            return await coroutine
    except TimeoutError:
        if limit.expired():
            raise SoftTimeLimitExceeded from None
        raise


def _run_from_outside[T](coroutine: Coroutine[Any, Any, T]) -> T:
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    own = loop()
    tasks: list[asyncio.Task[None]] = []

    async def finish() -> None:
        try:
            result = await coroutine
        except BaseException as error:  # noqa: BLE001 -- it is raised where the coroutine is waited for
            done.set_exception(error)
        else:
            done.set_result(result)

    def cancel() -> None:
        tasks[0].cancel()

    # The span that is current here is current in there.
    context = contextvars.copy_context()
    own.call_soon_threadsafe(lambda: tasks.append(own.create_task(finish(), context=context)))
    try:
        return done.result()
    except BaseException:
        if not done.done():
            own.call_soon_threadsafe(cancel)
            concurrent.futures.wait([done])
        raise
