"""A worker as a user writes it: ``python -m offload_worker acme_worker:worker``."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, Field

from offload_core.settings import FleetSettings
from offload_worker import PermanentError, Run, TemporaryError, Worker

FOLDER = Path(os.environ.get("ACME_FOLDER", "/nonexistent"))


class AcmeSettings(FleetSettings):
    """What this worker reads beside the rest."""

    acme_greeting: str = "Hello"


@contextlib.contextmanager
def lifespan(settings: AcmeSettings) -> Iterator[str]:
    """Give the greeting; note who opens and closes."""
    note(f"opened {os.getpid()}")
    yield settings.acme_greeting
    note(f"closed {os.getpid()}")


worker = Worker("acme-worker", AcmeSettings, lifespan, pool=os.environ.get("ACME_POOL", "threads"))


class Numbers(BaseModel):
    """Two numbers, and a name to be noted under when they are added."""

    a: int = Field(ge=0)
    b: int = 0
    note: str = ""
    # Kept out of sight by whoever posts it so.
    secret: str = ""


class Sum(BaseModel):
    """A sum."""

    total: int


class Trouble(BaseModel):
    """How a task is to fail, and how often."""

    code: str = "acme.busy"
    times: int = 1
    final: bool = False
    raise_type: bool = False
    # Until there is a file of this name.
    until: str = ""


class Text(BaseModel):
    """A text."""

    text: str


class Pause(BaseModel):
    """A time to wait."""

    seconds: float


def note(what: str) -> None:
    """Write a line where the test reads it."""
    if FOLDER.exists():
        with (FOLDER / "notes").open("a") as file:
            file.write(what + "\n")


@worker.task("number.add.v1", queue="numbers")
def add(numbers: Numbers, run: Run[str]) -> Sum:
    """Add two numbers."""
    if numbers.note:
        note(f"{numbers.note} {run.celery_id} {run.attempt} {run.delivery}")
    while numbers.note == "hold" and not (FOLDER / "go").exists():
        time.sleep(0.05)
    return Sum(total=numbers.a + numbers.b)


@worker.task("number.total.v1", queue="numbers")
def total(numbers: Numbers, run: Run[str]) -> Sum:
    """Add up what the stage before gave."""
    if numbers.note:
        note(f"{numbers.note} {run.celery_id}")
    previous = run.previous if isinstance(run.previous, list) else [run.previous]
    return Sum(total=numbers.a + sum(one["total"] for one in previous))


@worker.task("trouble.make.v1", queue="numbers", max_attempts=3, backoff_seconds=(0.2,), retry_on=(ZeroDivisionError,))
def fail(trouble: Trouble, run: Run[str]) -> Sum:
    """Fail so often."""
    if run.attempt < trouble.times and not (trouble.until and (FOLDER / trouble.until).exists()):
        if trouble.raise_type:
            return Sum(total=1 // 0)
        raise (PermanentError if trouble.final else TemporaryError)(trouble.code, "on purpose")
    return Sum(total=run.attempt)


@worker.task("text.leave.v1", queue="texts")
def leave(text: Text) -> None:
    """Call what ends a process."""
    note(f"left {text.text}")
    sys.exit(1)


@worker.task("text.cancel.v1", queue="texts")
async def cancel(text: Text) -> None:
    """Wait for what is cancelled."""
    note(f"left {text.text}")
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@worker.task("text.write.v1", queue="texts")
def write(text: Text, run: Run[str]) -> Text:
    """Write a file."""
    with run.open_output("table", "text/csv") as file:
        file.write(text.text.encode())
    return Text(text=f"{run.resources}, {run.read_output('table').decode()}")


@worker.task("text.wait.v1", queue="texts", soft_time_limit_seconds=2, hard_time_limit_seconds=20)
async def wait(pause: Pause, run: Run[str]) -> Text:
    """Wait in the event loop, and say where."""
    run.progress(1, 2)
    await asyncio.sleep(pause.seconds)
    return Text(text=type(asyncio.get_running_loop()).__name__)


@worker.task("text.forget.v1", queue="texts", concurrency=1)
def forget(text: Text) -> None:
    """Take a message alone, and give nothing back."""
    note(f"begin {text.text}")
    time.sleep(0.2)
    note(f"end {text.text}")
