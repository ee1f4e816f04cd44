"""Scripts that are run at the same time share a round trip: while one batch is on its way, the next one gathers.

Redis answers a batch once its log is on disk; with many requests at once they share that wait too, and the client's
own cost is paid once a batch. A request that comes alone goes at once, in a batch of one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

if TYPE_CHECKING:
    import redis.asyncio

    from offload_core.task_store import Call

# So many scripts take Redis less than 10 ms; nobody waits longer for the others of a batch.
LIMIT = 200


class Pipeline:
    """Runs scripts on one client, in batches."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        """Take the client; nothing is sent yet."""
        self._client = client
        self._waiting: list[tuple[Call, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def run(self, call: Call) -> Any:  # noqa: ANN401 -- Redis answers what the script returns
        """Run a script and return its answer.

        Raises:
            redis.RedisError: what the script, or the whole batch, met.

        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, answer))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        result = await answer
        if isinstance(result, NoScriptError):
            # Redis has forgotten the script: its text teaches it again.
            return await call.run_async(self._client)
        if isinstance(result, BaseException):
            raise result
        return result

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:LIMIT], self._waiting[LIMIT:]
            try:
                async with self._client.pipeline(transaction=False) as pipe:
                    for call, _ in batch:
                        pipe.execute_command(*call.command())
                    results: list[Any] = await pipe.execute(raise_on_error=False)
            except Exception as error:  # noqa: BLE001 -- each of the batch's requests is told, and decides
                results = [error] * len(batch)
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    answer.set_result(result)
