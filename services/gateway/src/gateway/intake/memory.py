"""Memory for uploads: each takes its share before its body is read, and waits when there is none left."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING

from gateway.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# What the server itself holds of a body before it is asked for: one read of the socket.
CONNECTION_BYTES = 256 * 1024
# So many may wait: each of them holds what its connection has received.
MAX_WAITING = 200
RETRY_AFTER_SECONDS = 5


class UploadMemory:
    """The memory that all uploads of this process share, given out in the order of their coming."""

    def __init__(self, memory_bytes: int, wait_seconds: float) -> None:
        """Take how much there is, and how long an upload may wait for its share."""
        self._memory_bytes = memory_bytes
        self._free_bytes = memory_bytes
        self._wait_seconds = wait_seconds
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used_bytes(self) -> int:
        """Return how much is given out."""
        return self._memory_bytes - self._free_bytes

    @contextlib.asynccontextmanager
    async def share(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold so much memory; more than there is takes all of it.

        Raises:
            Problem: 503 ``upload.busy`` when none became free in time, or too many wait already.

        """
        share = min(size_bytes, self._memory_bytes)
        if self._waiting or share > self._free_bytes:
            await self._wait_for(share)
        else:
            self._free_bytes -= share
        try:
            yield
        finally:
            self._free_bytes += share
            self._hand_out()

    async def _wait_for(self, share: int) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise _busy()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((share, turn))
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # It came in the moment in which nobody waited for it any more.
                self._free_bytes += share
            with contextlib.suppress(ValueError):
                self._waiting.remove((share, turn))
            self._hand_out()
            if isinstance(error, TimeoutError):
                raise _busy() from None
            raise

    def _hand_out(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free_bytes:
            share, turn = self._waiting.popleft()
            if not turn.done():
                self._free_bytes -= share
                turn.set_result(None)


def _busy() -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "upload.busy",
        "too many uploads are being received; send the request again",
        retry_after=RETRY_AFTER_SECONDS,
    )
