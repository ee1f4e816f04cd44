"""The http-worker's settings."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from offload_core.settings import CONCURRENCY, Count, FleetSettings, LinkSettings, Seconds

_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")


class HttpWorkerSettings(FleetSettings, LinkSettings):
    """Read from the environment at start."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    concurrency: Count = Field(default=200, description=CONCURRENCY)
    call_retry_seconds: Annotated[tuple[Seconds, ...], NoDecode] = Field(
        default=(12, 150, 1800, 21_600),
        description="Delays before each retry of a call, separated by spaces. After the last retry the call becomes a "
        "dead letter.",
    )
    webhook_retry_seconds: Annotated[tuple[Seconds, ...], NoDecode] = Field(
        default=(5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400),
        description="Delays before each further attempt to deliver a webhook, each up to a tenth longer or shorter; an "
        "endpoint may have its own. The default tries for 3.1 days. After the last one the delivery becomes a dead "
        "letter.",
    )
    webhook_timeout_seconds: Seconds = Field(
        default=15, description="How long one attempt to deliver a webhook may take in all."
    )
    webhook_disable_after_seconds: Seconds = Field(
        default=432_000, description="Disable an endpoint when all attempts have failed for this long: 5 days."
    )
    webhook_rate_per_second: Seconds = Field(
        default=100, description="Attempts a second at an endpoint that has no rate of its own."
    )
    webhook_connections: Count = Field(
        default=20, description="Webhooks under way at once from one process to one endpoint."
    )
    egress_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Internal receivers that calls and webhooks may reach: host names (`*.example.internal` allows all "
        "below it) and networks (`10.2.0.0/16`), separated by spaces. Without it they reach public addresses only.",
    )

    @field_validator("call_retry_seconds", "webhook_retry_seconds", "egress_allow", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("egress_allow")
    @classmethod
    def _names_and_networks(cls, allowed: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(one.lower().rstrip(".") for one in allowed)
        for one in found:
            if not _is_network(one) and not (_NAME.fullmatch(one) and re.search("[a-z]", one)):
                raise ValueError(f"{one} is neither a host name nor a network")
        return found

    @property
    def allowed_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Those of `egress_allow` that are networks."""
        return tuple(ipaddress.ip_network(one) for one in self.egress_allow if _is_network(one))

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """Those that are names."""
        return tuple(one for one in self.egress_allow if not _is_network(one))


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
