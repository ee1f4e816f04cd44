"""A worker whose functions write down what they did, and of which batch they were told."""

import json
import os
import time
from pathlib import Path

from pydantic import BaseModel

from offload_worker import BlockedError, Run, TemporaryError, Worker

worker = Worker("batch-worker", pool="threads")
NOTES = Path(os.environ.get("BATCH_FOLDER", ".")) / "notes"


class Item(BaseModel):
    """A number, and what becomes of it."""

    number: int
    fails: bool = False
    # Until there is this file it is blocked, or does not end.
    blocked: str = ""
    until: str = ""


class Note(BaseModel):
    """What to write down."""

    name: str
    fails_once: bool = False


class Done(BaseModel):
    """That it has been done."""

    number: int = 0


def note(*what: object) -> None:
    """Write a line that no other process cuts in two."""
    with NOTES.open("a") as notes:
        notes.write(json.dumps(what) + "\n")


@worker.task("batch.item.v1", queue="batch", max_attempts=1)
def item(message: Item, _run: Run) -> Done:
    """Do one item."""
    if message.fails:
        raise ValueError("as it was told")
    if message.blocked and not Path(message.blocked).exists():
        raise BlockedError("batch.blocked", "somebody has to do something")
    while message.until and not Path(message.until).exists():
        time.sleep(0.1)
    return Done(number=message.number)


@worker.task("batch.note.v1", queue="batch-notes", max_attempts=3, backoff_seconds=0.1)
def follow(message: Note, run: Run) -> Done:
    """Write down that it came, and what it knows."""
    if message.fails_once and run.attempt == 0:
        raise TemporaryError("note.busy", "come back")
    note(message.name, run.task_id, run.batch)
    return Done()
