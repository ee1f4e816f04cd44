"""The event loop that asynchronous functions run in: one for each process, in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def run[T](coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in the caller's context; returns what it returns.

    Whatever ends the wait, as a time limit does, cancels the coroutine and waits for it to end.
    """
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    loop = _loop()
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
    loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(finish(), context=context)))
    try:
        return done.result()
    except BaseException:
        if not done.done():
            loop.call_soon_threadsafe(cancel)
            concurrent.futures.wait([done])
        raise


def _loop() -> asyncio.AbstractEventLoop:
    """Return this process's loop: one that was made before a fork has no thread here."""
    with _lock:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="event-loop", daemon=True).start()
        return loop
