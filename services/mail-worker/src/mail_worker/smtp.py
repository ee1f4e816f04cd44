"""Speaking SMTP, stage by stage, so that it is known what the server has promised when it falls silent.

Connections are kept open, one per thread, and tried before they are used again.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from offload_runtime.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mail_worker.settings import SmtpSettings

PERMANENT = 500
# A session is left before a server would leave it: idle limits of 30 s and a hundred mails are usual.
IDLE_SECONDS = 25.0
MAILS_A_SESSION = 100


class OutcomeUnknownError(Exception):
    """The final dot was sent, and no reply came: the server may have taken the mail, or not."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the server said of each recipient, by position."""

    accepted: tuple[int, ...]
    # position -> reply code, of those refused for good
    refused: dict[int, int] = field(default_factory=dict)
    # positions of those refused for now
    deferred: tuple[int, ...] = ()


@dataclass(slots=True)
class _Session:
    smtp: smtplib.SMTP
    used_at: float
    mails: int = 0


class Sender:
    """Sends mails to one server."""

    def __init__(self, settings: SmtpSettings) -> None:
        """Take the server's address; the first mail connects."""
        self._settings = settings
        self._local = threading.local()

    def send(self, mail: bytes, sender: str, recipients: Sequence[str], claim: Callable[[Sequence[int]], bool]) -> Sent:
        """Send one mail. `claim` is called with the accepted positions before DATA; False ends the attempt.

        Raises:
            PermanentError: ``mail.refused`` with the reply code, when the server refuses the mail or every recipient.
            TemporaryError: ``mail.deferred``, ``mail.unreachable``, ``mail.auth_failed``: nothing was taken.
            OutcomeUnknownError: when nothing was said after the final dot.

        """
        session = self._session()
        try:
            return self._transaction(session, mail, sender, recipients, claim)
        except (smtplib.SMTPServerDisconnected, OSError) as error:
            self._drop()
            raise TemporaryError("mail.unreachable", "the mail server closed the connection") from error
        except BaseException:
            # Whatever it was, the next mail starts afresh.
            self._drop()
            raise

    def check(self) -> None:
        """Connect, say hello and leave.

        Raises:
            TemporaryError: when the server cannot be reached.

        """
        smtp = self._connect()
        with contextlib.suppress(smtplib.SMTPException, OSError):
            smtp.quit()

    def _transaction(
        self,
        session: _Session,
        mail: bytes,
        sender: str,
        recipients: Sequence[str],
        claim: Callable[[Sequence[int]], bool],
    ) -> Sent:
        smtp = session.smtp
        code, reply = smtp.mail(sender)
        _expect(code, reply, "the sender")
        accepted, refused, deferred = [], {}, []
        for position, recipient in enumerate(recipients):
            code, reply = smtp.rcpt(recipient)
            if code in {250, 251}:
                accepted.append(position)
            elif code >= PERMANENT:
                refused[position] = code
            else:
                deferred.append(position)
        if not accepted:
            smtp.rset()
            return Sent((), refused, tuple(deferred))
        if not claim(accepted):
            raise TemporaryError("mail.claim_lost", "another worker sends this mail, or this one waited too long")
        code, reply = smtp.docmd("DATA")
        _expect(code, reply, "DATA", 354)
        smtp.send(_quoted(mail))
        if smtp.sock is not None:
            smtp.sock.settimeout(self._settings.smtp_data_timeout_seconds)
        smtp.send(b".\r\n")
        try:
            code, reply = smtp.getreply()
        except (smtplib.SMTPServerDisconnected, OSError) as error:
            raise OutcomeUnknownError from error
        if smtp.sock is not None:
            smtp.sock.settimeout(self._settings.smtp_timeout_seconds)
        _expect(code, reply, "the mail")
        session.used_at, session.mails = time.monotonic(), session.mails + 1
        return Sent(tuple(accepted), refused, tuple(deferred))

    def _session(self) -> _Session:
        session: _Session | None = getattr(self._local, "session", None)
        if session is not None:
            fresh = time.monotonic() - session.used_at < IDLE_SECONDS and session.mails < MAILS_A_SESSION
            with contextlib.suppress(smtplib.SMTPException, OSError):
                if fresh and session.smtp.noop()[0] == 250:  # noqa: PLR2004 -- the reply
                    return session
            self._drop()
        session = _Session(self._connect(), time.monotonic())
        self._local.session = session
        return session

    def _drop(self) -> None:
        session: _Session | None = getattr(self._local, "session", None)
        if session is not None:
            self._local.session = None
            session.smtp.close()

    def _connect(self) -> smtplib.SMTP:
        settings = self._settings
        context = ssl.create_default_context(cafile=settings.smtp_ca_file)
        limit = settings.smtp_timeout_seconds
        try:
            smtp: smtplib.SMTP
            if settings.smtp_security == "tls":
                smtp = smtplib.SMTP_SSL(settings.smtp_host, settings.smtp_port, timeout=limit, context=context)
            else:
                smtp = smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=limit)
            # The text and the final dot are two writes: without this each mail would wait 40 ms for an ACK.
            if smtp.sock is not None:
                smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            smtp.ehlo_or_helo_if_needed()
            if settings.smtp_security == "starttls":
                smtp.starttls(context=context)
                smtp.ehlo()
            if settings.smtp_username and settings.smtp_password:
                smtp.login(settings.smtp_username, settings.smtp_password.get_secret_value())
        except smtplib.SMTPAuthenticationError as error:
            raise TemporaryError("mail.auth_failed", "the mail server refuses our login") from error
        except (smtplib.SMTPException, OSError) as error:
            raise TemporaryError("mail.unreachable", "the mail server cannot be reached") from error
        return smtp


def _expect(code: int, reply: bytes, what: str, wanted: int = 250) -> None:
    """Accept the reply that is wanted; any other is an error that can heal (4yz) or cannot (5yz)."""
    if code == wanted:
        return
    if code < 0:
        raise smtplib.SMTPServerDisconnected(reply.decode("ascii", "replace"))
    text = f"the mail server answered {code} to {what}"
    if code >= PERMANENT:
        raise PermanentError("mail.refused", text)
    raise TemporaryError("mail.deferred", text)


def _quoted(mail: bytes) -> bytes:
    """Return the mail with CRLF line ends only, and dots at line starts doubled (RFC 5321 section 4.5.2)."""
    lines = mail.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n")
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines)
