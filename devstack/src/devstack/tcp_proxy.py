"""A TCP proxy that can be slow, cut its connections, or swallow everything: a bad network on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

from devstack.servers import free_port

_PIECE_BYTES = 65_536


class TcpProxy:
    """Passes connections on to a port of this machine, until stopped."""

    def __init__(self, target_port: int) -> None:
        """Prepare; `port` is where to connect to."""
        self.port = free_port()
        self._target_port = target_port
        # Added to each piece, each way. Pieces overtake nobody, and do not wait for each other's delay.
        self.latency_seconds = 0.0
        self._loop = asyncio.new_event_loop()
        self._open: asyncio.Event
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)
        self._started = threading.Event()
        self._stopping: asyncio.Event

    def start(self) -> TcpProxy:
        """Begin to listen."""
        self._thread.start()
        self._started.wait(10)
        return self

    def stop(self) -> None:
        """Stop listening; open connections are closed."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def cut(self) -> None:
        """Close every connection, both ends, without a word."""
        self._loop.call_soon_threadsafe(self._cut)

    def swallow(self) -> None:
        """From now on nothing arrives, and nobody is told. What was sent arrives late, as TCP would deliver it."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._open.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._open, self._stopping = asyncio.Event(), asyncio.Event()
        self._open.set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self._started.set()
        await self._stopping.wait()
        server.close()
        self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        for source, target in ((reader, there[1]), (there[0], writer)):
            self._writers.add(target)
            task = asyncio.create_task(self._pass(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sender = asyncio.create_task(self._send(pieces, target))
        try:
            while True:
                piece = await source.read(_PIECE_BYTES)
                pieces.put_nowait((time.monotonic() + self.latency_seconds, piece))
                if not piece:
                    break
            await sender
        except (OSError, asyncio.CancelledError):
            sender.cancel()
        finally:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await sender
            self._writers.discard(target)
            target.transport.abort()

    async def _send(self, pieces: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter) -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(max(due - time.monotonic(), 0))
            await self._open.wait()
            if not piece:
                return
            target.write(piece)
            await target.drain()
