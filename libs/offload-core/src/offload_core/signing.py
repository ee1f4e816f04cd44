"""Signatures of what Offload sends to others: Standard Webhooks 1.0.0, https://www.standardwebhooks.com."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HMAC_PREFIX, PRIVATE_PREFIX, PUBLIC_PREFIX = "whsec_", "whsk_", "whpk_"
# The standard asks for 24 to 64.
SECRET_BYTES = 32


class Signer(Protocol):
    """Signs with one secret."""

    def sign(self, signed: bytes) -> str:
        """Return the signature, with its version before it."""


@dataclass(frozen=True, slots=True)
class Hmac:
    """A secret that both sides have: ``whsec_`` and 24 to 64 bytes in base64."""

    secret: str

    def sign(self, signed: bytes) -> str:
        """Return ``v1,`` and the HMAC-SHA256 in base64."""
        key = base64.b64decode(self.secret.removeprefix(HMAC_PREFIX))
        return f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"


@dataclass(frozen=True, slots=True)
class Ed25519:
    """A private key that only Offload has: ``whsk_`` and its 32 bytes in base64. Needs ``cryptography``."""

    secret: str

    def sign(self, signed: bytes) -> str:
        """Return ``v1a,`` and the signature in base64."""
        return f"v1a,{base64.b64encode(_private_key(self.secret).sign(signed)).decode()}"


def headers(message_id: str, timestamp: int, body: bytes, signers: Iterable[Signer]) -> dict[str, str]:
    """Return the three headers of a message that is sent now; `timestamp` is in seconds since the epoch."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(one.sign(signed) for one in signers),
    }


def new_secret() -> str:
    """Return a new secret for `Hmac`."""
    return HMAC_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def new_private_key() -> str:
    """Return a new secret for `Ed25519`."""
    return PRIVATE_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def public_key_of(secret: str) -> str:
    """Return the public key of a secret of `Ed25519`, for receivers: ``whpk_`` and its 32 bytes in base64."""
    return PUBLIC_PREFIX + base64.b64encode(_private_key(secret).public_key().public_bytes_raw()).decode()


def secret_of(link_secret: str, owner: str) -> str:
    """Return the secret of what is sent for an owner without an endpoint that has its own.

    It follows from the secret of the links, which cannot be found from it.
    """
    derived = hmac.new(link_secret.encode(), f"signing\n{owner}".encode(), hashlib.sha256).digest()
    return HMAC_PREFIX + base64.b64encode(derived).decode()


def _private_key(secret: str) -> Ed25519PrivateKey:
    # Only gateway and http-worker have it installed.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(secret.removeprefix(PRIVATE_PREFIX)))
