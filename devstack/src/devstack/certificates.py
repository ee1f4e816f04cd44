"""Certificates for servers that live for one test, each with an authority of its own."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files of a certificate, of its key, and of the authority that signed it."""

    authority: Path
    certificate: Path
    key: Path

    def for_a_server(self) -> ssl.SSLContext:
        """Return what a server wraps its connections in."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def issue(folder: Path, address: str, *, expired: bool = False) -> Certificate:
    """Return a certificate for a host's name or IP address."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    not_after = datetime.now(UTC) - timedelta(days=1) if expired else None
    issued = authority.issue_cert(address, not_after=not_after)
    made = Certificate(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
    authority.cert_pem.write_to_path(str(made.authority))
    issued.cert_chain_pems[0].write_to_path(str(made.certificate))
    issued.private_key_pem.write_to_path(str(made.key))
    return made
