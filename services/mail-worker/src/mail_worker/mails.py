"""Sending one mail once: content, ledger and SMTP put together."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics

from mail_worker import compose
from mail_worker.ledger import Ledger
from mail_worker.smtp import OutcomeUnknownError, Sender
from offload_contracts.mails import MailPolicy, MailSent, RecipientOutcome
from offload_core.errors import PermanentError, StepError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import redis

    from mail_worker.settings import MailWorkerSettings
    from offload_worker import Run

logger = logging.getLogger(__name__)

# Errors that are not one recipient's: the next one would meet them too.
_NOBODY_ELSES = frozenset({
    "mail.claim_lost", "mail.unreachable", "mail.certificate", "mail.tls_failed", "mail.tls_missing",
    "mail.auth_failed", "mail.auth_missing",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mailer:
    """Sends mails in this service's name."""

    settings: MailWorkerSettings
    client: redis.Redis
    sender: Sender

    def send(
        self,
        run: Run[Any],
        to: Sequence[str],
        content: Callable[[datetime], compose.Content],
        policy: MailPolicy = MailPolicy.AT_LEAST_ONCE,
        *,
        individually: bool = False,
    ) -> MailSent:
        """Send a mail to all recipients that have not had it yet. `content` is given the mail's date.

        `individually` sends a message of its own to each; else all are named in one.

        Raises:
            TemporaryError: when the server, or a recipient's mailbox, says "later".
            PermanentError: ``mail.refused`` when no recipient is left, ``mail.outcome_unknown`` by policy. Each error
                tells in its details what became of each recipient.

        """
        settings = self.settings
        ledger = Ledger(self.client, settings.key_prefix, settings.dead_letter_retention_seconds, run, policy, len(to))
        if ledger.lost:
            _count("mail.outcome_unknown", policy)
        open_positions = [
            position for position, entry in enumerate(ledger.entries) if not entry or entry.startswith("claimed")
        ]
        written = content(ledger.date)
        groups = [[one] for one in open_positions] if individually else [open_positions] if open_positions else []
        errors: list[StepError] = []
        for group in groups:
            mail_id = f"{run.celery_id}-{group[0] + 1}" if individually else run.celery_id
            mail = compose.message(
                written,
                sender=settings.mail_from,
                sender_name=settings.mail_from_name,
                to=[to[one] for one in group] if individually else to,
                mail_id=mail_id,
                date=ledger.date,
            )
            try:
                self._send_to(ledger, mail, [(one, to[one]) for one in group], policy)
            except StepError as error:
                errors.append(error)
                if error.code in _NOBODY_ELSES:
                    break
        outcomes = _outcomes(to, ledger.entries)
        if errors:
            # What may heal comes first: then the others are tried again with it.
            first = next((one for one in errors if isinstance(one, TemporaryError)), errors[0])
            raise type(first)(first.code, _with_counts(first.message, outcomes), _details(outcomes))
        return _judge(outcomes, compose.message_id(run.celery_id, settings.mail_from))

    def _send_to(self, ledger: Ledger, mail: bytes, to: Sequence[tuple[int, str]], policy: MailPolicy) -> None:
        claimed: list[int] = []
        # A worker that was stopped in between must not go on as if nothing had been: its lease is another's by then.
        fresh_seconds = self.settings.lease_seconds / 2

        def claim(accepted: Sequence[int]) -> bool:
            positions = [to[one][0] for one in accepted]
            asked_at = time.monotonic()
            outcome = ledger.claim(positions)
            if outcome == "newer":
                return False
            if outcome == "again":
                _count("mail.sent_again", policy)
                logger.warning("sending again with the same Message-ID: the outcome of an earlier attempt is not known")
            claimed.extend(positions)
            return time.monotonic() - asked_at < fresh_seconds

        try:
            sent = self.sender.send(mail, self.settings.mail_from, [address for _, address in to], claim)
        except OutcomeUnknownError:
            if policy is MailPolicy.AT_MOST_ONCE:
                _count("mail.outcome_unknown", policy)
                ledger.close(claimed, "unknown")
                if len(claimed) == len(to):
                    return
            # With at-least-once the claim stays: the next attempt finds it, and counts the copy that it sends.
            raise TemporaryError("mail.outcome_unknown", "the mail server fell silent after the mail") from None
        except StepError:
            ledger.close(claimed, "")
            raise
        ledger.close([to[one][0] for one in sent.accepted], "sent")
        for one, code in sent.refused.items():
            ledger.close([to[one][0]], f"refused {code}")
        if sent.deferred:
            raise TemporaryError("mail.deferred", f"the mail server said later for {len(sent.deferred)} recipients")


def _with_counts(message: str, outcomes: Sequence[RecipientOutcome]) -> str:
    """Return the message, and for how many of several recipients it does not hold."""
    sent = sum(one.outcome == "sent" for one in outcomes)
    return f"{message}; {sent} of {len(outcomes)} recipients have the mail" if sent else message


def _outcomes(to: Sequence[str], entries: Sequence[str]) -> list[RecipientOutcome]:
    """Return what became of each recipient, from the ledger's entries."""
    found = []
    for address, entry in zip(to, entries, strict=True):
        what, _, code = entry.partition(" ")
        if what == "sent":
            found.append(RecipientOutcome(address=address, outcome="sent"))
        elif what == "refused":
            found.append(RecipientOutcome(address=address, outcome="refused", code=int(code)))
        else:
            found.append(RecipientOutcome(address=address, outcome="unknown" if what else "not_sent"))
    return found


def _details(outcomes: Sequence[RecipientOutcome]) -> dict[str, Any]:
    return {"recipients": [one.model_dump(mode="json", exclude_defaults=True) for one in outcomes]}


def _judge(outcomes: Sequence[RecipientOutcome], message_id: str) -> MailSent:
    """Return the result of a mail of which nothing is left to do.

    Raises:
        PermanentError: when it was taken for nobody, or when it is not known whether somebody has it.

    """
    refused = tuple(one.code for one in outcomes if one.code is not None)
    accepted = sum(one.outcome == "sent" for one in outcomes)
    if any(one.outcome == "unknown" for one in outcomes):
        text = "it is not known whether the mail was delivered"
        raise PermanentError("mail.outcome_unknown", text, _details(outcomes))
    if not accepted:
        text = f"the mail server refused every recipient ({refused[0]})"
        raise PermanentError("mail.refused", text, _details(outcomes))
    return MailSent(message_id=message_id, accepted=accepted, refused=refused, recipients=tuple(outcomes))


def _count(what: str, policy: MailPolicy) -> None:
    """Count a mail whose outcome was not known."""
    counter = metrics.get_meter("offload").create_counter(
        "offload.mail.ambiguous", description="Mails whose outcome an SMTP server left open, by what was done"
    )
    counter.add(1, {"offload.outcome": what, "offload.policy": policy.value})
