"""The worker that runs this project's django.tasks: ``python -m offload_worker offload_outbox.worker:worker``."""

from __future__ import annotations

import contextlib
import os
import socket
import traceback
from typing import TYPE_CHECKING, Any

import django
from django.db import close_old_connections
from django.tasks import Task
from django.tasks.base import TaskContext
from django.utils.json import normalize_json
from django.utils.module_loading import import_string
from pydantic import BaseModel, JsonValue

from offload_worker import PermanentError, Run, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offload_core.settings import FleetSettings


class Call(BaseModel):
    """A task of django.tasks: where it is, and what it is called with."""

    function: str
    # What `get_result` knows it by.
    result_id: str = ""
    args: list[JsonValue] = []
    kwargs: dict[str, JsonValue] = {}
    takes_context: bool = False


class Returned(BaseModel):
    """What it returned."""

    return_value: JsonValue = None


@contextlib.contextmanager
def lifespan(_: FleetSettings) -> Iterator[None]:
    """Load the project."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    django.setup()
    yield


NAME = f"django-worker@{socket.gethostname()}"
worker = Worker("django-worker", lifespan=lifespan, pool="threads")


@worker.task("django.run.v1", queue="django")
def run(call: Call, run: Run[None]) -> Returned:
    """Run a task of the project. Nothing but what is decorated with `task` can be called."""
    try:
        found = import_string(call.function)
    except ImportError:
        found = None
    if not isinstance(found, Task):
        raise PermanentError("django.unknown_task", "the project has no such task")
    close_old_connections()
    arguments: list[Any] = list(call.args)
    if call.takes_context:
        # Its models can be imported once the project is loaded.
        from offload_outbox.backend import running

        arguments.insert(0, TaskContext(task_result=running(found, call.result_id, NAME, run.attempt + 1)))
    try:
        returned = found.call(*arguments, **call.kwargs)
    except (Exception, SystemExit) as error:
        details = {
            "exception": f"{type(error).__module__}.{type(error).__qualname__}",
            "traceback": traceback.format_exc()[-8000:],
        }
        raise PermanentError("django.task_failed", "the task raised an exception", details) from error
    finally:
        close_old_connections()
    run.logger.info("%s returned", call.function)
    return Returned(return_value=normalize_json(returned))
