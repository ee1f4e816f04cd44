"""The image worker's settings."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from offload_runtime.settings import BlobSettings, Count, FleetSettings, Settings, WorkerSettings


class ImageWorkerSettings(Settings, BlobSettings, WorkerSettings, FleetSettings):
    """Read from the environment at start."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    image_concurrency: Count = Field(
        default=2, description="Pool processes of the image worker: one per core; Pillow keeps a core busy."
    )
    image_max_pixels: Count = Field(default=50_000_000, description="Pixels of an image, all its frames together.")
    image_max_side_pixels: Count = Field(default=16_384, description="The longest side of an image.")
    image_max_frames: Count = Field(default=100, description="Frames of an animation.")
    image_memory_limit_bytes: Count = Field(
        default=805_306_368,
        description="Memory of one pool process (768 MiB; on Linux): 50 million pixels with transparency, decoded and "
        "resized, take 600 MB. An image that needs more fails as `image.too_large`.",
    )
