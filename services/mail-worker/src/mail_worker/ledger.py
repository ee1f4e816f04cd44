"""The mail ledger: one entry per step and recipient, outside of the SMTP server's word.

Claimed before the text is sent, released by any reply or error before the final dot, closed by 250. A claim whose
holder died is *unknown*: it may have died after the dot. The mail's policy decides whether it is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery_leases import worker
from celery_leases.publish import load
from celery_leases.scripts import Script
from offload_core import keys
from offload_core.redis_client import patiently

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from offload_contracts import MailPolicy
    from offload_worker.steps import Run


_OPEN, _CLAIM, _CLOSE = (Script(load(f"mail_worker/lua/{name}.lua")) for name in ("open", "claim", "close"))


@dataclass(frozen=True, slots=True)
class Opened:
    """A mail's ledger as it stands."""

    # When it was first opened: the Date of every copy.
    date: datetime
    # How many claims of older runs were given up as unknown just now.
    lost: int
    # Each recipient's entry: '', 'claimed …', 'sent', 'refused CODE' or 'unknown'.
    entries: tuple[str, ...]


class Ledger:
    """The ledger of one run of one step. Waits for Redis."""

    def __init__(self, client: redis.Redis, prefix: str, keep_seconds: int, run: Run, policy: MailPolicy) -> None:
        """Name the ledger, the run that writes into it, and what a lost outcome means."""
        self._client = client
        self._key = keys.ledger(prefix, run.celery_id)
        self._keep_ms = keep_seconds * 1000
        self._run = run
        self._policy = policy

    def open(self, recipients: int) -> Opened | None:
        """Return what is known of each recipient, and shut out every older run; None when this one is shut out."""
        arguments = [self._keep_ms, self._run.attempt, self._run.delivery, self._policy.value, recipients]
        found = self._do(_OPEN, arguments)
        if found is None:
            return None
        date_ms, lost, *entries = found
        date = datetime.fromtimestamp(int(date_ms) // 1000, UTC)
        return Opened(date, int(lost), tuple(entry.decode() for entry in entries))

    def claim(self, positions: Sequence[int]) -> str:
        """Claim recipients, all or none. Returns ``claimed``, ``again`` or ``newer``."""
        arguments = [self._run.attempt, self._run.delivery, *(one + 1 for one in positions)]
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
