"""A mail server that takes its time to say yes: ``slow_smtp.py ADDRESS PORT SECONDS LEDGER``.

The ledger gets a line for each recipient that was served.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP

ADDRESS, PORT, SECONDS, LEDGER = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])


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


async def serve() -> None:
    """Serve until ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Slow(), timeout=300, hostname="slow"), ADDRESS, PORT)
    note([])  # that there is a ledger says that the server listens
    await server.serve_forever()


asyncio.run(serve())
