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


class TemporaryError(StepError):
    """May heal by itself: the step is tried again, with a growing pause."""
