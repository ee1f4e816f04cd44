"""The mail worker's settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from offload_contracts.address import Address
from offload_core.settings import CONCURRENCY, Count, FleetSettings, LinkSettings, Seconds, old_name


class SmtpSettings(BaseSettings):
    """Host name of the mail server."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    smtp_host: str = Field(description="Host name of the mail server.")
    smtp_port: Annotated[int, Field(ge=1, le=65_535)] = Field(default=587, description="Port of the mail server.")
    smtp_security: Literal["none", "starttls", "tls"] = Field(
        default="starttls", description="`starttls` (587), `tls` (465), or `none` for a server on this machine."
    )
    smtp_username: str | None = Field(default=None, description="User name for the mail server, if it needs one.")
    smtp_password: SecretStr | None = Field(default=None, description="Password for the mail server.")
    smtp_ca_file: str | None = Field(
        default=None, description="A CA certificate to trust for the mail server, in addition to the system's."
    )
    smtp_timeout_seconds: Seconds = Field(default=30, description="Timeout of one reply of the mail server.")
    smtp_data_timeout_seconds: Seconds = Field(
        default=600,
        description="Timeout of the reply to the end of a mail: ten minutes by RFC 5321, section 4.5.3.2.6.",
    )
    smtp_session_timeout_seconds: Seconds = Field(
        default=60, description="Maximum total time of connecting, greeting, TLS and login."
    )
    mail_from: Address = Field(description="The sender's address.")
    mail_from_name: Annotated[str, Field(max_length=100, pattern="^[^\\x00-\\x1f\\x7f-\\x9f\u2028\u2029]*$")] = Field(
        default="", description="Display name of the sender."
    )


class MailWorkerSettings(FleetSettings, LinkSettings, SmtpSettings):
    """Read from the environment at start."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    concurrency: Count = Field(
        default=4,
        validation_alias=old_name("CONCURRENCY", "MAIL_CONCURRENCY"),
        description=CONCURRENCY,
    )
    mail_retry_seconds: Annotated[tuple[Seconds, ...], NoDecode] = Field(
        default=(60, 300, 900, 1800, 3600, 7200, 14_400, 28_800, *(43_200,) * 6),
        description="Delays before each retry of a mail, separated by spaces. The default retries for 3.7 days "
        "(RFC 5321, section 4.5.4.1). After the last retry the mail becomes a dead letter.",
    )
    smtp_check_interval_seconds: Seconds = Field(
        default=30, description="How often a running mail worker checks the mail server."
    )
    health_timeout_seconds: Seconds = Field(
        default=10, description="Maximum total time of the health check's SMTP session."
    )
    mail_deadline_seconds: Seconds = Field(
        default=900, description="Maximum duration of a mail's step; then the worker hands its tasks back and exits."
    )

    @field_validator("mail_retry_seconds", mode="before")
    @classmethod
    def _split_pauses(cls, value: object) -> object:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value
