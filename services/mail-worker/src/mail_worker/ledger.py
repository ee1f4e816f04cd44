"""The mail ledger: one entry per step and recipient, outside of the SMTP server's word.

Claimed before the text is sent, released by any reply or error before the final dot, closed by 250. A claim whose
holder died is *unknown*: it may have died after the dot. The mail's policy decides whether it is sent again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery_leases.publish import load
from celery_leases.scripts import Script
from offload_core import keys
from offload_core.errors import TemporaryError
from offload_worker.outages import wait_for_redis

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from offload_contracts.mails import MailPolicy
    from offload_worker import Run


_OPEN, _CLAIM, _CLOSE = (Script(load(f"mail_worker/lua/{name}.lua")) for name in ("open", "claim", "close"))


class Ledger:
    """The ledger of one run of one step, opened for it: every older run is shut out. Waits for Redis.

    Attributes:
        date: when the ledger was first opened: the Date of every copy.
        lost: how many claims of older runs were given up as unknown when it was opened.
        entries: of each recipient: '', 'claimed …', 'sent', 'refused CODE' or 'unknown'.

    """

    def __init__(
        self, client: redis.Redis, prefix: str, keep_seconds: int, run: Run[Any], policy: MailPolicy, recipients: int
    ) -> None:
        """Open it.

        Raises:
            TemporaryError: ``mail.claim_lost`` when a newer run has opened it.

        """
        self._client = client
        self._key = keys.ledger(prefix, run.celery_id)
        self._run = run
        found = self._do(_OPEN, keep_seconds * 1000, run.attempt, run.delivery, policy.value, recipients)
        if found is None:
            raise _lost()
        date_ms, lost, *entries = found
        self.date = datetime.fromtimestamp(int(date_ms) // 1000, UTC)
        self.lost = int(lost)
        self.entries = [entry.decode() for entry in entries]

    def claim(self, positions: Sequence[int]) -> str:
        """Claim recipients, all or none. Returns ``claimed``, ``again`` or ``newer``."""
        run = self._run
        outcome: str = self._do(_CLAIM, run.attempt, run.delivery, *(one + 1 for one in positions)).decode()
        if outcome != "newer":
            for position in positions:
                self.entries[position] = f"claimed {run.attempt} {run.delivery}"
        return outcome

    def close(self, positions: Sequence[int], entry: str) -> None:
        """Write how recipients ended; the empty entry releases them.

        Raises:
            TemporaryError: ``mail.claim_lost`` when a newer run has opened the ledger; this run's claims have ended.

        """
        if not positions:
            return
        run = self._run
        found = self._do(_CLOSE, run.attempt, run.delivery, entry, *(one + 1 for one in positions))
        if found is None:
            raise _lost()
        for position, now in zip(positions, found, strict=True):
            self.entries[position] = now.decode()

    def _do(self, script: Script, *arguments: str | int):  # type: ignore[no-untyped-def] # noqa: ANN202 -- Redis answers what the script returns
        return wait_for_redis(lambda: script(self._client, [self._key], arguments), "the mail ledger")


def _lost() -> TemporaryError:
    return TemporaryError("mail.claim_lost", "another worker sends this mail")
