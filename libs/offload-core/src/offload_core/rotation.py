"""Secrets that replace each other: of API keys, and of endpoints of webhooks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Secret(Protocol):
    """A secret, a frozen dataclass, that holds until a time (ms since the epoch); None: until it is replaced."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def expires_at(self) -> int | None:
        """Until when it holds."""


def rotated[S: Secret](known: Sequence[S], new: S, grace_ms: int, now_ms: int) -> tuple[S, ...]:
    """Return the secrets with a new one first. Those before it hold for so long as well, unless they end earlier."""
    ends_at = now_ms + grace_ms
    older = [
        replace(one, expires_at=min(one.expires_at or ends_at, ends_at))
        for one in known
        if one.expires_at is None or one.expires_at > now_ms
    ]
    return (new, *(older if grace_ms else ()))
