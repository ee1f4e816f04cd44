"""The image worker's settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from offload_runtime.settings import BlobSettings, Count, FleetSettings, Settings, WorkerSettings


class ImageWorkerSettings(Settings, BlobSettings, WorkerSettings, FleetSettings):
    """Read from the environment at start."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    image_concurrency: Count = Field(
        default=2, description="Pool processes of the image worker: one per core; Pillow keeps a core busy."
    )
    image_max_pixels: Count = Field(
        default=50_000_000, description="Pixels of an image, all frames together; and of its result."
    )
    image_max_side_pixels: Count = Field(default=16_384, description="Longest side of an image and of its result.")
    image_max_frames: Count = Field(
        default=10_000, description="Frames of an animation. The pixels of all frames are the limit that counts."
    )
    image_memory_limit_bytes: Annotated[int, Field(ge=134_217_728)] = Field(
        default=2_147_483_648,
        description="Memory of the process that works on an image, one for each pool process (2 GiB): 50 million "
        "pixels to any format. An image that needs more is refused as `image.too_large` before it is decoded.",
    )
    image_recycle_bytes: Count = Field(
        default=268_435_456,
        description="That process is replaced after a job that left more than this in use (256 MiB).",
    )
