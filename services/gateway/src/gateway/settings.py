"""The gateway's settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from offload_core.settings import BlobSettings, Count, LinkSettings, Seconds, Settings


class GatewaySettings(Settings, BlobSettings, LinkSettings):
    """Read from the environment at start."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    host: str = Field(default="", description="The address to listen on. Empty: every address, IPv4 and IPv6.")
    port: Annotated[int, Field(ge=1, le=65_535)] = Field(default=8080, description="The port to listen on.")
    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="The first API keys, as `tenant:sha256[:scope,…[:expiry]]`, separated by spaces or newlines.",
    )
    api_keys_file: str | None = Field(
        default=None,
        description="File with one API key per line; `#` starts a comment. Changes take effect within two seconds.",
    )
    development_mode: bool = Field(default=False, description="Serve without API keys. Only for your own machine.")
    upload_limit_bytes: Count = Field(default=20_000_000, description="Maximum size of an upload.")
    body_limit_bytes: Count = Field(default=1_000_000, description="Maximum size of a JSON body.")
    upload_memory_bytes: Count = Field(
        default=134_217_728,
        description="Memory budget of all uploads in progress (128 MiB). Further uploads wait.",
    )
    upload_wait_seconds: Seconds = Field(
        default=10, description="How long an upload waits for memory before it is refused with 503 `upload.busy`."
    )
    queue_limit: Count = Field(
        default=10_000, description="Maximum number of waiting tasks in a queue; further posts get 429."
    )
    delayed_limit: Count = Field(
        default=100_000, description="Maximum number of delayed tasks in a queue; further delayed posts get 429."
    )
    memory_limit_bytes: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Redis's memory where its `maxmemory` is 0; above 80 % posts get 503. 0: no limit."
    )
    rate_limit_per_second: Annotated[float, Field(ge=0)] = Field(
        default=0, description="Tasks that one API key may post a second, over all gateways; 429 above it. 0: no limit."
    )
    rate_limit_burst: Count = Field(
        default=100, description="How many tasks one API key may post at once, above its rate."
    )
    header_timeout_seconds: Seconds = Field(
        default=10, description="Maximum time for receiving a request's headers; then the connection is closed."
    )
    body_idle_seconds: Seconds = Field(
        default=10, description="Answer 408 when nothing of a body arrives for this long."
    )
    body_timeout_seconds: Seconds = Field(default=300, description="Maximum time for receiving a body.")
    write_idle_seconds: Seconds = Field(
        default=30, description="Close the connection when the client reads none of the response for this long."
    )
    request_timeout_seconds: Seconds = Field(
        default=900, description="Maximum total time of a request and its response; then the connection is closed."
    )
    event_streams_limit: Count = Field(
        default=5_000, description="Clients that may follow events at one gateway; further ones get 503 `events.busy`."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origins allowed to call the API from a browser, separated by spaces; `*` allows all."
    )
    redis_timeout_seconds: Seconds = Field(
        default=0.9,
        description="Timeout of one answer of Redis. A post asks twice at most, so that it ends within 2 s.",
    )
    shutdown_seconds: Count = Field(default=30, description="Time for open requests to end after SIGTERM.")

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(value.split()) if isinstance(value, str) else value
