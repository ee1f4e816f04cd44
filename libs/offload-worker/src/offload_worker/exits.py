"""What a function raises to end more than itself: ``sys.exit()``, or the cancellation of a coroutine."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from billiard.common import terminate_handler_fired
from celery.exceptions import WorkerShutdown, WorkerTerminate

if TYPE_CHECKING:
    from collections.abc import Iterator


class FunctionExitError(Exception):
    """The function called ``sys.exit()``, or was cancelled by something of its own."""


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Let such an exception end the step that raised it, as any other does, and neither its process nor its thread.

    A process of the pool that was told to end does so.

    Raises:
        FunctionExitError: in its place.

    """
    try:
        yield
    except (SystemExit, asyncio.CancelledError) as error:
        if terminate_handler_fired() or isinstance(error, (WorkerShutdown, WorkerTerminate)):
            raise
        message = f"the function was left by {type(error).__name__}: {error}"
        raise FunctionExitError(message) from error
