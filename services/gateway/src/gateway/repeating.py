"""What is looked at again and again, outside of any request."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@contextlib.asynccontextmanager
async def repeating(action: Callable[[], Awaitable[None]], pause_seconds: float) -> AsyncIterator[None]:
    """Do something now, and again after each pause, for as long as the context is open."""

    async def go_on() -> None:
        while True:
            await asyncio.sleep(pause_seconds)
            await action()

    await action()
    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
