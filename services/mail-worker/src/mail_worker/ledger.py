"""The mail ledger: one entry per step and recipient, outside of the SMTP server's word.

Claimed before the text is sent, released by any reply or error before the final dot, closed by 250. A claim whose
holder died after the dot is *unknown*: its policy decides whether it is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING

from celery_leases import worker
from celery_leases.scripts import Script
from offload_runtime import keys
from offload_runtime.redis_client import patiently

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from offload_contracts import MailPolicy
    from offload_runtime.steps import Run


def _script(name: str) -> Script:
    return Script((resources.files("mail_worker") / "lua" / f"{name}.lua").read_text(encoding="utf-8"))


_OPEN, _CLAIM, _CLOSE = _script("open"), _script("claim"), _script("close")


@dataclass(frozen=True, slots=True)
class Opened:
    """A mail's ledger as it stands."""

    # When it was first opened: the Date of every copy.
    date: datetime
    # Each recipient's entry: '', 'claimed …', 'sent' or 'refused CODE'.
    entries: tuple[str, ...]


class Ledger:
    """The ledger of one run of one step. Waits for Redis."""

    def __init__(self, client: redis.Redis, prefix: str, keep_seconds: int, run: Run) -> None:
        """Name the ledger and the run that writes into it."""
        self._client = client
        self._key = keys.ledger(prefix, run.celery_id)
        self._keep_ms = keep_seconds * 1000
        self._run = run

    def open(self, recipients: int) -> Opened:
        """Return what is known of each recipient."""
        date_ms, *entries = self._do(_OPEN, [self._keep_ms, recipients])
        date = datetime.fromtimestamp(int(date_ms) // 1000, UTC)
        return Opened(date, tuple(entry.decode() for entry in entries))

    def claim(self, positions: Sequence[int], policy: MailPolicy) -> str:
        """Claim recipients, all or none. Returns ``claimed``, or ``again``, ``sent``, ``newer``, ``unknown``."""
        arguments = [self._run.attempt, self._run.delivery, policy.value, *(one + 1 for one in positions)]
        outcome: str = self._do(_CLAIM, arguments).decode()
        return outcome

    def close(self, positions: Sequence[int], entry: str) -> None:
        """Write how recipients ended; the empty entry releases them."""
        if positions:
            self._do(_CLOSE, [self._run.attempt, self._run.delivery, entry, *(one + 1 for one in positions)])

    def _do(self, script: Script, arguments: Sequence[str | int]):  # type: ignore[no-untyped-def] # noqa: ANN202 -- Redis answers what the script returns
        return patiently(
            lambda: script(self._client, [self._key], arguments), "the mail ledger", give_up=worker.is_stopping
        )
