"""Sending one mail once: content, ledger and SMTP put together."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import metrics

from mail_worker import compose
from mail_worker.ledger import Ledger
from mail_worker.smtp import OutcomeUnknownError, Sender
from offload_contracts import MailPolicy, MailSent
from offload_runtime.errors import PermanentError, StepError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import redis

    from mail_worker.settings import MailWorkerSettings
    from offload_runtime.steps import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mailer:
    """Sends mails in this service's name."""

    settings: MailWorkerSettings
    client: redis.Redis
    sender: Sender

    def send(
        self,
        run: Run,
        to: Sequence[str],
        content: Callable[[datetime], compose.Content],
        policy: MailPolicy = MailPolicy.AT_LEAST_ONCE,
    ) -> MailSent:
        """Send a mail to all recipients that have not had it yet. `content` is given the mail's date.

        Raises:
            TemporaryError: when the server, or a recipient's mailbox, says "later".
            PermanentError: ``mail.refused`` when no recipient is left, ``mail.outcome_unknown`` by policy.

        """
        settings = self.settings
        ledger = Ledger(self.client, settings.key_prefix, settings.dead_letter_retention_seconds, run)
        opened = ledger.open(len(to))
        open_positions = [
            position for position, entry in enumerate(opened.entries) if not entry or entry.startswith("claimed")
        ]
        mail = compose.message(
            content(opened.date), sender=settings.mail_from, to=to, mail_id=run.celery_id, date=opened.date
        )
        if open_positions:
            self._send_to(ledger, bytes(mail), [(one, to[one]) for one in open_positions], policy)
            opened = ledger.open(len(to))
        refused = tuple(int(entry.split()[1]) for entry in opened.entries if entry.startswith("refused"))
        accepted = sum(entry == "sent" for entry in opened.entries)
        if not accepted:
            raise PermanentError("mail.refused", f"the mail server refused every recipient ({refused[0]})")
        return MailSent(message_id=str(mail["Message-ID"]), accepted=accepted, refused=refused)

    def _send_to(self, ledger: Ledger, mail: bytes, to: Sequence[tuple[int, str]], policy: MailPolicy) -> None:
        claimed: list[int] = []
        # A worker that was stopped in between must not go on as if nothing had been: its lease is another's by then.
        fresh_seconds = self.settings.lease_seconds / 2

        def claim(accepted: Sequence[int]) -> bool:
            positions = [to[one][0] for one in accepted]
            asked_at = time.monotonic()
            outcome = ledger.claim(positions, policy)
            if outcome == "unknown":
                _count("mail.outcome_unknown", policy)
                raise PermanentError("mail.outcome_unknown", "it is not known whether the mail was delivered")
            if outcome == "again":
                _count("mail.sent_again", policy)
                logger.warning("sending again with the same Message-ID: the outcome of an earlier attempt is not known")
            if outcome in {"sent", "newer"}:
                return False
            claimed.extend(positions)
            return time.monotonic() - asked_at < fresh_seconds

        try:
            sent = self.sender.send(mail, self.settings.mail_from, [address for _, address in to], claim)
        except OutcomeUnknownError:
            if policy is MailPolicy.AT_MOST_ONCE:
                _count("mail.outcome_unknown", policy)
                raise PermanentError("mail.outcome_unknown", "it is not known whether the mail was delivered") from None
            # The claim stays: the next attempt finds it, and counts the copy that it sends.
            raise TemporaryError("mail.outcome_unknown", "the mail server fell silent after the mail") from None
        except StepError:
            ledger.close(claimed, "")
            raise
        ledger.close([to[one][0] for one in sent.accepted], "sent")
        for one, code in sent.refused.items():
            ledger.close([to[one][0]], f"refused {code}")
        if sent.deferred:
            raise TemporaryError("mail.deferred", f"the mail server said later for {len(sent.deferred)} recipients")


def _count(what: str, policy: MailPolicy) -> None:
    """Count a mail whose outcome was not known."""
    counter = metrics.get_meter("offload").create_counter(
        "offload.mail.ambiguous", description="Mails whose outcome an SMTP server left open, by what was done"
    )
    counter.add(1, {"offload.outcome": what, "offload.policy": policy.value})
