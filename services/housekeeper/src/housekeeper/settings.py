"""The housekeeper's settings."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from offload_core.settings import BlobSettings, Count, FleetSettings, RetentionSettings, Seconds


class HousekeeperSettings(FleetSettings, BlobSettings, RetentionSettings):
    """Read from the environment at start."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    maintenance_deadline_seconds: Seconds = Field(
        default=3600,
        description="Maximum duration of a maintenance task; then the worker hands its tasks back and exits.",
    )
    orphan_grace_seconds: Count = Field(
        default=86_400, description="How old an upload without a record must be before it is deleted."
    )
