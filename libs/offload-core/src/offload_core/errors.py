"""Errors of a step: what can heal, and what cannot. Each has a stable code; its text is for people."""

from __future__ import annotations

from typing import Any


class StepError(Exception):
    """A step failed. `code` is stable and part of the API; `message` holds no personal data.

    `details` are for whoever posted the task, as JSON can hold them; they are neither logged nor traced.
    """

    def __init__(self, code: str, message: str, details: dict[str, Any] | None = None) -> None:
        """Keep all of it as arguments, so that the error survives a pool's pipe."""
        super().__init__(code, message, details)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        """Return the text for people."""
        return self.message


class PermanentError(StepError):
    """Trying again would not help: the input is wrong, or somebody said no for good."""


class BlockedError(StepError):
    """Nothing that waits helps, but somebody can: the step becomes a dead letter at once, which can be redriven."""


class PostponeError(Exception):
    """The step is not for now: it comes back after so long. No failure, and no attempt is counted.

    For workers whose pool is ``asyncio`` or ``threads``. In a pool of processes the step goes back to the head of its
    queue.
    """

    def __init__(self, seconds: float) -> None:
        """Take how long to wait."""
        super().__init__(seconds)
        self.seconds = seconds


class TemporaryError(StepError):
    """May heal by itself: the step is tried again, with a growing pause.

    `retry_after_seconds` is when whoever was asked wants to be asked again: it is waited for where it is longer.
    """

    def __init__(
        self,
        code: str,
        message: str,
        details: dict[str, Any] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        """Keep all of it."""
        super().__init__(code, message, details)
        self.args = (code, message, details, retry_after_seconds)
        self.retry_after_seconds = retry_after_seconds
