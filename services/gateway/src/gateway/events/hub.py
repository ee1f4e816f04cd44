"""The streams of events that this process follows: one blocking read of Redis for all of its clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from gateway.repeating import in_background
from offload_core.events import Event
from offload_core.redis_client import cause, connect_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

# A client that lags by so much is disconnected: it comes back and reads from the stream what it has missed.
LAG_LIMIT_BYTES = 256 * 1024
# How long one read waits for events; Redis answers at once when there is one.
BLOCK_MS = 5_000
READ_COUNT = 200
# A new client waits so long at most for the read that knows of its stream: clients that come together share one.
JOIN_SECONDS = 0.05
RETRY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as it is sent, and its place in its stream."""

    id: str
    type: str
    text: bytes

    @classmethod
    def of(cls, entry_id: bytes, fields: dict[bytes, bytes]) -> Frame | None:
        """Return the frame of a stream's entry; None for one that is no event any more."""
        event = Event.of(entry_id, fields)
        return None if event is None else cls(event.id, event.type, frame(event.type, event.body(), event.id))


def frame(kind: str, data: dict[str, Any], event_id: str | None = None) -> bytes:
    """Return an event as `text/event-stream` has it."""
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


@dataclass(eq=False, slots=True)
class Subscriber:
    """One client of a stream: what waits to be sent to it."""

    frames: deque[Frame] = field(default_factory=deque)
    lag_bytes: int = 0
    # It gets nothing more: it has lagged, or its key is no longer good.
    is_over: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, one: Frame) -> None:
        """Take an event, unless too many wait already."""
        if self.is_over:
            return
        self.lag_bytes += len(one.text)
        if self.lag_bytes > LAG_LIMIT_BYTES:
            self.is_over = True
        else:
            self.frames.append(one)
        self.arrived.set()

    def end(self) -> None:
        """Give it nothing more, not even what waits."""
        self.is_over = True
        self.frames.clear()
        self.arrived.set()

    def take(self) -> Frame:
        """Return the next event that waits."""
        one = self.frames.popleft()
        self.lag_bytes -= len(one.text)
        if not self.frames:
            self.arrived.clear()
        return one


class Hub:
    """Hands new events of each stream to the clients that follow it."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Take the settings; a connection is made with the first client."""
        self._client = connect_async(settings, timeout_seconds=BLOCK_MS / 1000 + 3)
        self._subscribers: dict[str, set[Subscriber]] = defaultdict(set)
        # How far each stream has been read.
        self._positions: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._is_unavailable = False

    @property
    def count(self) -> int:
        """How many clients follow a stream."""
        return sum(map(len, self._subscribers.values()))

    @contextlib.asynccontextmanager
    async def following(self, stream: str, position: str) -> AsyncIterator[Subscriber]:
        """Give a subscriber that gets what comes behind a position; of a stream that is followed, what is new."""
        subscriber = Subscriber()
        self._subscribers[stream].add(subscriber)
        if stream not in self._positions:
            self._positions[stream] = position
            self._changed.set()
        try:
            yield subscriber
        finally:
            self._subscribers[stream].discard(subscriber)
            if not self._subscribers[stream]:
                del self._subscribers[stream], self._positions[stream]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read for as long as the context is open."""
        try:
            async with in_background(self._run()):
                yield
        finally:
            await self._client.aclose()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            if not self._positions:
                await self._changed.wait()
            try:
                await self._read()
            except RedisError as error:
                if not self._is_unavailable:
                    logger.warning("events wait for Redis (%s): %s", cause(error), error)
                self._is_unavailable = True
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                # Everybody's events come by here: what one entry does must not end it.
                logger.exception("an entry of a stream was left out")
            else:
                self._is_unavailable = False

    async def _read(self) -> None:
        """Read once. A read that does not know of a new client's stream is given up: it changes nothing in Redis."""
        positions: Any = dict(self._positions)
        read = asyncio.ensure_future(self._client.xread(positions, count=READ_COUNT, block=BLOCK_MS))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({read, changed}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({read}, timeout=0 if read.done() else JOIN_SECONDS)
        finally:
            changed.cancel()
            if not read.done():
                read.cancel()
                await asyncio.wait({read})
        if read.cancelled():
            return
        answer: Any = read.result()
        for stream, entries in answer or ():
            self._hand_out(stream.decode(), entries)

    def _hand_out(self, stream: str, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        if stream not in self._positions:
            return  # its last client has left meanwhile
        self._positions[stream] = entries[-1][0].decode()
        frames = [one for entry in entries if (one := Frame.of(*entry))]
        for subscriber in self._subscribers[stream]:
            for one in frames:
                subscriber.put(one)
