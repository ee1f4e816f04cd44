"""The image worker's settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from offload_core.settings import CONCURRENCY, BlobSettings, Count, FleetSettings, old_name


class ImageWorkerSettings(FleetSettings, BlobSettings):
    """Read from the environment at start."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    concurrency: Count = Field(
        default=2,
        validation_alias=old_name("CONCURRENCY", "IMAGE_CONCURRENCY"),
        description=CONCURRENCY,
    )
    image_max_pixels: Count = Field(
        default=50_000_000, description="Maximum pixels of an upload, all frames together, and of its result."
    )
    image_max_side_pixels: Count = Field(
        default=16_384, description="Maximum side length of an upload and of its result."
    )
    image_max_frames: Count = Field(
        default=10_000,
        description="Maximum frames of an animation. `OFFLOAD_IMAGE_MAX_PIXELS` limits all frames together.",
    )
    task_memory_limit_bytes: Annotated[int, Field(ge=134_217_728)] = Field(
        default=2_147_483_648,
        validation_alias=old_name("TASK_MEMORY_LIMIT_BYTES", "IMAGE_MEMORY_LIMIT_BYTES"),
        description="Memory limit of an image process, of which each pool process has one. The default of 2 GiB is "
        "enough for 50 million pixels in any format. An image that needs more fails as `image.too_large` before it is "
        "decoded.",
    )
    image_recycle_bytes: Count = Field(
        default=268_435_456,
        description="Replace an image process that still uses more memory than this after a job (256 MiB).",
    )
