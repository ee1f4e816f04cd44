"""Errors of a step: what can heal, and what cannot. Each has a stable code; its text is for people."""

from __future__ import annotations


class StepError(Exception):
    """A step failed. `code` is stable and part of the API; `message` holds no personal data."""

    def __init__(self, code: str, message: str) -> None:
        """Keep both as arguments, so that the error survives a pool's pipe."""
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        """Return the text for people."""
        return self.message


class PermanentError(StepError):
    """Trying again would not help: the input is wrong, or somebody said no for good."""


class TemporaryError(StepError):
    """May heal by itself: the step is tried again, with a growing pause."""
