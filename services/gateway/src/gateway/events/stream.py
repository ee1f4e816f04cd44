"""What one client of a stream gets: what it has missed, what comes, comments in between, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import RedisError, ResponseError

from gateway.events.hub import READ_COUNT, Frame, frame
from offload_core.events import position

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection

    import redis.asyncio

    from gateway.events.hub import Hub, Subscriber

logger = logging.getLogger(__name__)

# Of the client, before it connects again.
RETRY_MS = 3_000
# Proxies close what is silent for a minute.
HEARTBEAT_SECONDS = 15.0
BEGIN = "0-0"


class Extent(NamedTuple):
    """What a stream still has: the ids of its first event and of the last one ever, and whether some were trimmed."""

    first: str
    last: str
    is_trimmed: bool

    def has_lost(self, last_id: str) -> bool:
        """Return whether what came after an id may be gone."""
        return self.is_trimmed and last_id != BEGIN and position(last_id) < position(self.first)


async def extent(client: redis.asyncio.Redis, stream: str) -> Extent:
    """Return what a stream has; both ids are ``0-0`` where there is none.

    Raises:
        redis.RedisError: when Redis cannot be reached.

    """
    try:
        found: dict[str, Any] = await client.xinfo_stream(stream)
    except ResponseError:
        return Extent(BEGIN, BEGIN, is_trimmed=False)
    first = found["first-entry"][0].decode() if found["first-entry"] else BEGIN
    return Extent(first, found["last-generated-id"].decode(), is_trimmed=found["entries-added"] > found["length"])


class Follower:
    """Follows one stream for one client."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        hub: Hub,
        stream: str,
        *,
        snapshot: Callable[[], Awaitable[dict[str, Any]]],
        ends: Collection[str],
        limit_seconds: float,
        watch: Callable[[Callable[[], None]], contextlib.AbstractContextManager[None]],
    ) -> None:
        """Take what it follows. `snapshot` is sent after a gap; `ends` are the types with which the stream ends.

        After `limit_seconds` the client has to connect again. While the context of `watch` is open, what it is given is
        called when the client may follow no longer.
        """
        self._client, self._hub, self._stream = client, hub, stream
        self._snapshot, self._ends, self._limit_seconds, self._watch = snapshot, ends, limit_seconds, watch

    async def frames(self, last_id: str, found: Extent, *, is_over: bool = False) -> AsyncIterator[bytes]:
        """Give what is sent to a client that has had everything up to `last_id`; `is_over`: no event comes any more.

        Where Redis does not answer it ends, and the client comes back for the rest.
        """
        try:
            async with contextlib.aclosing(self._frames(last_id, found, is_over=is_over)) as sent:
                async for one in sent:
                    yield one
        except RedisError as error:
            logger.info("a stream of events ends early: %s", error)

    async def _frames(self, last_id: str, found: Extent, *, is_over: bool) -> AsyncGenerator[bytes]:
        yield f"retry: {RETRY_MS}\n\n".encode()
        if found.has_lost(last_id):
            yield frame("gap", {"oldest_id": found.first})
            yield frame("snapshot", await self._snapshot())
        closes_at = time.monotonic() + self._limit_seconds
        async with self._hub.following(self._stream, found.last) as live, contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._watch(live.end))
            kind = ""
            async for one in self._missed(last_id):
                last_id, kind = one.id, one.type
                yield one.text
            while not self._is_end(kind, live, is_over=is_over) and time.monotonic() < closes_at:
                if not live.frames:
                    if live.is_over:
                        return
                    try:
                        async with asyncio.timeout(HEARTBEAT_SECONDS):
                            await live.arrived.wait()
                    except TimeoutError:
                        yield b": still here\n\n"
                    continue
                one = live.take()
                if position(one.id) > position(last_id):
                    last_id, kind = one.id, one.type
                    yield one.text
            has_ended = self._is_end(kind, live, is_over=is_over)
        if has_ended:
            yield frame("end", await self._snapshot())

    def _is_end(self, kind: str, live: Subscriber, *, is_over: bool) -> bool:
        # A dead letter that was brought back goes on behind the end.
        return (is_over or kind in self._ends) and not live.frames

    async def _missed(self, last_id: str) -> AsyncIterator[Frame]:
        """Give what the stream has behind an id, up to now."""
        while True:
            entries: Any = await self._client.xrange(self._stream, min=f"({last_id}", count=READ_COUNT)
            for entry in entries:
                if one := Frame.of(*entry):
                    yield one
            if len(entries) < READ_COUNT:
                return
            last_id = entries[-1][0].decode()
