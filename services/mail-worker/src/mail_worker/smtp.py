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
from typing import TYPE_CHECKING, Any

from offload_core.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mail_worker.settings import SmtpSettings

PERMANENT = 500
# To a recipient it means "too many in one mail" from old servers, and is taken for 452 (RFC 5321, section 4.5.3.1.10).
TOO_MANY_RECIPIENTS = 552
GREETING = 220
# A socket's time limit of 0 would mean that it does not wait at all.
MINIMUM_SECONDS = 0.001
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
    smtp: _BoundedSMTP
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
            TemporaryError: ``mail.deferred``, ``mail.unreachable``, ``mail.certificate``, ``mail.tls_failed``,
                ``mail.tls_missing``, ``mail.auth_failed``, ``mail.auth_missing``: nothing was taken.
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

    def check(self, seconds: float) -> None:
        """Connect, say hello and leave, all within some seconds.

        Raises:
            TemporaryError: when the server cannot be reached, or refuses us.

        """
        smtp = self._connect(seconds)
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
        # Not smtplib's own mail() and rcpt(): they read an address anew, and may find another in it.
        code, reply = smtp.docmd("MAIL", f"FROM:<{sender}>")
        _expect(code, reply, "the sender")
        accepted, refused, deferred = [], {}, []
        for position, recipient in enumerate(recipients):
            code, reply = smtp.docmd("RCPT", f"TO:<{recipient}>")
            if code in {250, 251}:
                accepted.append(position)
            elif code >= PERMANENT and code != TOO_MANY_RECIPIENTS:
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
        smtp.send(b".\r\n")
        try:
            code, reply = smtp.reply_within(self._settings.smtp_data_timeout_seconds)
        except (smtplib.SMTPServerDisconnected, OSError) as error:
            raise OutcomeUnknownError from error
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

    def _connect(self, session_seconds: float | None = None) -> _BoundedSMTP:
        settings = self._settings
        context = ssl.create_default_context(cafile=settings.smtp_ca_file)
        kind = _BoundedSMTPS if settings.smtp_security == "tls" else _BoundedSMTP
        seconds = session_seconds or settings.smtp_session_timeout_seconds
        smtp = kind(settings.smtp_host, settings.smtp_timeout_seconds, seconds, context)
        try:
            with _named():
                _expect(*smtp.connect(settings.smtp_host, settings.smtp_port), "the greeting", GREETING)
                # The text and the final dot are two writes: without this each mail would wait 40 ms for an ACK.
                if smtp.sock is not None:
                    smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                smtp.ehlo_or_helo_if_needed()
                if settings.smtp_security == "starttls":
                    _start_tls(smtp, context)
                if settings.smtp_username and settings.smtp_password:
                    smtp.login(settings.smtp_username, settings.smtp_password.get_secret_value())
        except BaseException:
            smtp.close()
            raise
        # From here on each command has its own time, and the step its deadline.
        smtp.session_ends = float("inf")
        return smtp


class _BoundedSMTP(smtplib.SMTP):
    """smtplib's client, whose every reply and whole beginning end in time, however slowly the server speaks.

    smtplib's own limit is that of one read: a server that sends a byte now and then would hold it for ever.
    """

    def __init__(self, host: str, command_seconds: float, session_seconds: float, context: ssl.SSLContext) -> None:
        self.command_seconds = command_seconds
        self.session_ends = time.monotonic() + session_seconds
        self.reply_ends = float("inf")
        self.context = context
        super().__init__(timeout=min(command_seconds, session_seconds))
        # What smtplib checks a certificate against; it takes it from a host that is given at once.
        self._host = host

    def getreply(self) -> tuple[int, bytes]:
        return self.reply_within(self.command_seconds)

    def reply_within(self, seconds: float) -> tuple[int, bytes]:
        """Return the server's reply.

        Raises:
            OSError: TimeoutError when it is not complete in time.

        """
        self.reply_ends = time.monotonic() + seconds
        if self.file is None:
            self.file = _Replies(self)  # what smtplib uses of a file
        return super().getreply()

    def send(self, s: Any) -> None:  # noqa: ANN401 -- smtplib's signature
        if self.sock is not None:
            self.sock.settimeout(max(min(self.command_seconds, self.session_ends - time.monotonic()), MINIMUM_SECONDS))
        super().send(s)


class _BoundedSMTPS(_BoundedSMTP):
    """The same with TLS from the first byte."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = super()._get_socket(host, port, timeout)  # type: ignore[misc]  # smtplib's own hook
        return self.context.wrap_socket(plain, server_hostname=host)


class _Replies:
    """The server's lines, read within their time."""

    def __init__(self, smtp: _BoundedSMTP) -> None:
        self._smtp = smtp
        self._read = b""

    def readline(self, limit: int) -> bytes:
        while b"\n" not in self._read and len(self._read) < limit:
            sock = self._smtp.sock
            left = min(self._smtp.reply_ends, self._smtp.session_ends) - time.monotonic()
            if left <= 0 or sock is None:
                raise TimeoutError("the mail server did not reply in time")
            sock.settimeout(left)
            piece = sock.recv(8192)
            if not piece:
                break
            self._read += piece
        line, end, self._read = self._read.partition(b"\n")
        return line + end

    def close(self) -> None:
        self._read = b""


def _start_tls(smtp: smtplib.SMTP, context: ssl.SSLContext) -> None:
    if not smtp.has_extn("starttls"):
        raise TemporaryError("mail.tls_missing", "the mail server does not offer STARTTLS")
    smtp.starttls(context=context)
    smtp.ehlo()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Give each cause its own name: what cannot be reached, and what is reached and refuses."""
    try:
        yield
    except smtplib.SMTPAuthenticationError as error:
        raise TemporaryError("mail.auth_failed", "the mail server refuses our login") from error
    except smtplib.SMTPNotSupportedError as error:
        raise TemporaryError("mail.auth_missing", "the mail server does not offer a login") from error
    except ssl.SSLCertVerificationError as error:
        text = f"the mail server's certificate is not accepted: {error.verify_message}"
        raise TemporaryError("mail.certificate", text) from error
    except ssl.SSLError as error:
        raise TemporaryError("mail.tls_failed", "the mail server's TLS fails") from error
    except (smtplib.SMTPException, OSError) as error:
        raise TemporaryError("mail.unreachable", "the mail server cannot be reached") from error


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
