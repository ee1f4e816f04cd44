"""A real SMTP server that keeps what it receives and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default as email_policy
from typing import TYPE_CHECKING

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from email.message import EmailMessage
    from pathlib import Path

# What a script may answer instead of taking the mail: a reply, or one of these.
DROP = "DROP"  # take the mail, and close the connection before saying so


@dataclass(slots=True)
class Mail:
    """One mail as it was received."""

    recipients: list[str]
    data: bytes
    taken: bool
    received_at: float = field(default_factory=time.time)

    @property
    def parsed(self) -> EmailMessage:
        """The mail, parsed."""
        return message_from_bytes(self.data, policy=email_policy)


class SmtpSink:
    """Takes mail on a port of this machine, until stopped.

    `script` is asked at each stage: ``RCPT`` with the address appended, ``DATA`` before the text, ``TEXT`` in the
    middle of it (where it can only drop), ``DOT`` after it. It may return a reply such as ``"451 later"``, `DROP`, or
    None to take it.
    """

    def __init__(
        self,
        port: int,
        ledger: Path | None = None,
        *,
        login: tuple[str, str] | None = None,
        starttls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare a server; with `ledger`, each mail is noted there in a line of JSON too."""
        self.port = port
        self.mails: list[Mail] = []
        self.connections = 0
        self.script: Callable[[str, Envelope], str | None] = lambda _stage, _envelope: None
        self._ledger = ledger
        self._login = login
        self._starttls = starttls
        self._lock = threading.Lock()
        self._controller: Controller | None = None

    def start(self) -> SmtpSink:
        """Begin to listen."""
        sink = self

        class Server(SMTP):
            async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 -- aiosmtpd's name
                reply = sink.script("DATA", self.envelope)
                if reply == DROP:
                    self.transport.abort()
                elif reply:
                    await self.push(reply)
                elif sink.script("TEXT", self.envelope) == DROP:
                    await self.push("354 go on")
                    await self._reader.read(100)
                    self.transport.abort()
                else:
                    await super().smtp_DATA(arg)

        class Listener(Controller):
            def factory(self) -> SMTP:
                sink.connections += 1
                return Server(self.handler, **self.SMTP_kwargs)

        options: dict[str, object] = {"data_size_limit": 30_000_000}
        if self._login is not None:
            options |= {
                "authenticator": self._authenticate,
                "auth_required": True,
                "auth_require_tls": self._starttls is not None,
            }
        if self._starttls is not None:
            options |= {"tls_context": self._starttls, "require_starttls": True}
        self._controller = Listener(self, hostname="127.0.0.1", port=self.port, **options)
        self._controller.start()
        return self

    def stop(self) -> None:
        """Stop listening; open connections are closed."""
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def to(self, recipient: str) -> list[Mail]:
        """Return the mails taken for a recipient."""
        with self._lock:
            return [mail for mail in self.mails if mail.taken and recipient in mail.recipients]

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: object
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)  # noqa: S101 -- the only mechanism offered
        given = (data.login.decode(), data.password.decode())
        return AuthResult(success=given == self._login, handled=False)

    async def handle_RCPT(  # noqa: D102, N802 -- aiosmtpd's hook
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        reply = self.script(f"RCPT {address}", envelope)
        if reply:
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: D102, N802 -- aiosmtpd's hook
        reply = self.script("DOT", envelope)
        taken = reply in {None, DROP}
        content = envelope.original_content or b""
        mail = Mail(list(envelope.rcpt_tos), content, taken)
        with self._lock:
            self.mails.append(mail)
            if self._ledger is not None:
                with self._ledger.open("a") as file:
                    note = {"to": mail.recipients, "id": mail.parsed["Message-ID"], "taken": taken}
                    file.write(json.dumps(note) + "\n")
        if reply == DROP:
            server.transport.abort()
        return reply or "250 OK"
