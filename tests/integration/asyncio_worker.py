"""A worker whose functions are coroutines, in the pool for them."""

import asyncio
import time
from pathlib import Path

from pydantic import BaseModel

from offload_worker import BlockedError, PostponeError, Run, TemporaryError, Worker

worker = Worker("slow-worker", pool="asyncio")


class Wait(BaseModel):
    """How long to wait, or until there is a file."""

    seconds: float = 0
    file: str = ""


class Waited(BaseModel):
    """That it has waited, on which attempt and delivery."""

    attempt: int
    delivery: int


def is_there(message: Wait) -> bool:
    """Say whether there is the file."""
    return Path(message.file).exists()


@worker.task("slow.wait.v1", queue="slow", soft_time_limit_seconds=6, hard_time_limit_seconds=60, backoff_seconds=0.1)
async def wait(message: Wait, run: Run) -> Waited:
    """Wait; past its limit it is cancelled."""
    while message.file and not is_there(message):  # noqa: ASYNC110 -- a test in another process makes the file
        await asyncio.sleep(0.05)
    await asyncio.sleep(message.seconds)
    await asyncio.to_thread(run.progress, 1, 1)
    return Waited(attempt=run.attempt, delivery=run.delivery)


@worker.task("slow.postpone.v1", queue="slow")
async def postpone(message: Wait, run: Run) -> Waited:
    """Come back until there is a file."""
    if not is_there(message):
        raise PostponeError(message.seconds)
    return Waited(attempt=run.attempt, delivery=run.delivery)


@worker.task("slow.blocked.v1", queue="slow")
async def blocked(message: Wait, run: Run) -> Waited:
    """Be blocked until there is a file."""
    if not is_there(message):
        raise BlockedError("slow.blocked", "somebody has to do something")
    return Waited(attempt=run.attempt, delivery=run.delivery)


@worker.task("slow.fail.v1", queue="slow", max_attempts=2, backoff_seconds=0.1)
async def fail(message: Wait, run: Run) -> Waited:
    """Fail the first time, and say when to come back; write down when each attempt began."""
    if message.file:
        with Path(message.file).open("a") as moments:  # noqa: ASYNC230 -- a line
            moments.write(f"{time.time()}\n")
    if run.attempt == 0:
        raise TemporaryError("slow.busy", "come back", retry_after_seconds=1.5)
    return Waited(attempt=run.attempt, delivery=run.delivery)


@worker.task("slow.leave.v1", queue="slow")
async def leave(_message: Wait, _run: Run) -> Waited:
    """Be left by more than an exception."""
    raise SystemExit(3)
