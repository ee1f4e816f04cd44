"""A mail server that takes its time to say yes: ``slow_smtp.py ADDRESS PORT SECONDS LEDGER [LOGINS]``.

The ledger gets a line for each recipient that was served. With a file of logins (``user:password``, one a line) it
serves nobody else; the file is read anew at each login.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

ADDRESS, PORT, SECONDS, LEDGER = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
LOGINS = Path(sys.argv[5]) if len(sys.argv) > 5 else None


class Slow:
    """Takes every mail, later."""

    async def handle_DATA(self, _server, _session, envelope) -> str:  # noqa: N802 -- aiosmtpd's hook
        await asyncio.sleep(SECONDS)
        note(envelope.rcpt_tos)
        return "250 at last"


def note(recipients: list[str]) -> None:
    """Write down who was served."""
    with LEDGER.open("a") as ledger:
        ledger.writelines(f"{recipient}\n" for recipient in recipients)


def log_in(_server: SMTP, _session: object, _envelope: object, _mechanism: str, login: object) -> AuthResult:
    """Accept the logins of the file alone."""
    assert LOGINS is not None
    assert isinstance(login, LoginPassword)
    given = f"{login.login.decode()}:{login.password.decode()}"
    # Not handled: the server gives the answer, 235 or 535.
    return AuthResult(success=given in LOGINS.read_text().splitlines(), handled=False)


async def serve() -> None:
    """Serve until ended."""
    loop = asyncio.get_running_loop()

    def session() -> SMTP:
        # Without TLS, and without logins, the server does not offer AUTH at all.
        return SMTP(
            Slow(), timeout=300, hostname="slow", authenticator=log_in,
            auth_required=LOGINS is not None, auth_require_tls=LOGINS is None,
        )  # fmt: skip

    server = await loop.create_server(session, ADDRESS, PORT)
    note([])  # that there is a ledger says that the server listens
    await server.serve_forever()


asyncio.run(serve())
