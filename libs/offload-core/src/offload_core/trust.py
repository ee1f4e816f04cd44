"""Authorities of one's own, beside the system's: for Redis, S3, SMTP and the collector alike.

All of them read the file that ``SSL_CERT_FILE`` names (OpenSSL, and rustls below the S3 client), but for the
exporters of traces and metrics, whose HTTP client has a variable of its own. None takes a second file beside the
system's, so one is made of both.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path

from offload_core.settings import SettingsError


def install(ca_file: str | None) -> None:
    """Trust the authorities in a PEM file too, in this process and in those that it starts. None: only the system's.

    Raises:
        SettingsError: when the file cannot be read, or has no certificate that can be understood.

    """
    if ca_file is None:
        return
    try:
        own = Path(ca_file).read_text()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise SettingsError(f"OFFLOAD_CA_FILE: {ca_file} has no certificates of authorities: {error}") from error
    system = ssl.get_default_verify_paths().cafile
    bundle = Path(tempfile.mkdtemp(prefix="offload-")) / "authorities.crt"
    bundle.write_text(f"{Path(system).read_text() if system else ''}\n{own}")
    os.environ["SSL_CERT_FILE"] = str(bundle)
    if "OTEL_EXPORTER_OTLP_CERTIFICATE" not in os.environ:
        os.environ["REQUESTS_CA_BUNDLE"] = str(bundle)
