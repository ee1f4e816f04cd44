"""Where the broker is: what stands in ``broker_url``, and how the connection is secured.

kombu reads TLS from the names of its own transports. Ours has another name, so it reads its URL itself: the scheme
alone decides whether TLS is spoken, and a certificate is verified unless the URL or ``broker_use_ssl`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from celery_leases.options import InvalidOptionError

# Scheme -> whether TLS is spoken.
PLAIN_SCHEMES: Final = {"redis": False, "rediss": True}
SENTINEL_SCHEMES: Final = {"sentinel": False, "rediss-sentinel": True}

_CERTIFICATE_CHECKS: Final = {
    "none": "none", "optional": "optional", "required": "required",
    "CERT_NONE": "none", "CERT_OPTIONAL": "optional", "CERT_REQUIRED": "required",
}  # fmt: skip
# redis-py's options that a URL may hold as they are.
_TLS_TEXTS: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password")


@dataclass(frozen=True, slots=True)
class Address:
    """One broker. `tls` holds redis-py's ``ssl_*`` options, and is empty without TLS."""

    host: str
    port: int | None
    username: str | None
    password: str | None = field(repr=False)
    database: str
    tls: Mapping[str, Any]
    credential_provider: str | None


def resolve(url: str, schemes: Mapping[str, bool], use_ssl: object = None) -> Address:
    """Return the address of a ``broker_url``; `use_ssl` is ``broker_use_ssl``, and counts more than the URL.

    Raises:
        InvalidOptionError: when the scheme, the port or a query parameter is none that this transport knows.

    """
    parts = urlsplit(url)
    if parts.scheme not in schemes:
        message = f"broker_url: the scheme must be one of {', '.join(schemes)}, not {parts.scheme!r}"
        raise InvalidOptionError(message)
    try:
        port = parts.port
    except ValueError as error:
        message = f"broker_url: {error}"
        raise InvalidOptionError(message) from None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    database = unquote(parts.path).strip("/") or query.pop("virtual_host", "")
    credential_provider = query.pop("credential_provider", None)
    options = {name: _tls_option(name, value) for name, value in query.items()}
    if options and not schemes[parts.scheme]:
        message = f"broker_url: {min(options)} needs a scheme with TLS, not {parts.scheme}://"
        raise InvalidOptionError(message)
    return Address(
        unquote(parts.hostname or ""),
        port,
        unquote(parts.username or "") or None,
        unquote(parts.password or "") or None,
        database,
        tls(schemes[parts.scheme] and (options or True), use_ssl),
        credential_provider,
    )


def tls(*said: object) -> dict[str, Any]:
    """Return redis-py's TLS options: each of `said` is false, true or a mapping of options, the later counts more.

    Certificates are verified by the system's authorities unless an option says otherwise.

    Raises:
        InvalidOptionError: when ``broker_use_ssl`` is something else.

    """
    options: dict[str, Any] = {}
    for one in said:
        if isinstance(one, Mapping):
            options |= one
        elif one not in {None, False, True}:
            message = f"broker_use_ssl must be true, false or a mapping of ssl_* options, not {one!r}"
            raise InvalidOptionError(message)
    return {"ssl_cert_reqs": "required"} | options if any(said) else {}


def _tls_option(name: str, value: str) -> str | bool:
    if name == "ssl_cert_reqs" and value in _CERTIFICATE_CHECKS:
        return _CERTIFICATE_CHECKS[value]
    if name == "ssl_check_hostname" and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if name in _TLS_TEXTS:
        return value
    message = f"broker_url: {name}={value!r} is not understood"
    raise InvalidOptionError(message)
