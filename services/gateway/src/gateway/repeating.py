"""What goes on outside of any request, for as long as the gateway runs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine


@contextlib.asynccontextmanager
async def in_background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do some work for as long as the context is open."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def repeating(action: Callable[[], Awaitable[None]], pause_seconds: float) -> AsyncIterator[None]:
    """Do something now, and again after each pause, for as long as the context is open."""

    async def go_on() -> None:
        while True:
            await asyncio.sleep(pause_seconds)
            await action()

    await action()
    async with in_background(go_on()):
        yield
