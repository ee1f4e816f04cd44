"""Beat's settings."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from offload_contracts.address import Address
from offload_core.settings import Count, Settings, WorkerSettings


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is not the name of a time zone, like Europe/Berlin") from None
    return name


class BeatSettings(Settings, WorkerSettings):
    """Read from the environment at start."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    time_zone: Annotated[str, AfterValidator(_zone)] = Field(default="UTC", description="Time zone of the schedules.")
    health_interval_seconds: Count = Field(
        default=30, description="How often Redis, blob store and mail server are checked."
    )
    report_cron: str = Field(default="0 8 * * *", description="When the daily report is mailed.")
    report_recipients: Annotated[tuple[Address, ...], NoDecode] = Field(
        default=(), description="Who gets the daily report, separated by spaces or commas. Empty: no mail."
    )
    report_grace_seconds: Count = Field(default=3600, description="How late a missed report may still be mailed.")
    nightly_clean_up_cron: str = Field(default="0 3 * * *", description="When expired outputs and uploads are deleted.")
    weekly_clean_up_cron: str = Field(
        default="0 4 * * 0", description="When the thorough clean-up runs, which also looks for forgotten records."
    )
    clean_up_grace_seconds: Count = Field(default=21_600, description="How late a missed clean-up may still run.")

    @field_validator("report_recipients", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value
