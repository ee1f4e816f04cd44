"""Settings that several services share, in groups. Each service's own class picks the groups that it needs.

All are read from the environment with the prefix ``OFFLOAD_``; a value that is wrong or missing ends the service at its
start with the setting's name. There is no default for an address or a secret.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class SettingsError(ValueError):
    """A setting has a value that cannot work."""


def _redis_url(url: str) -> str:
    scheme = urlsplit(url.replace("sentinel://", "redis://", 1)).scheme
    if "cluster" in url.split(":", 1)[0]:
        raise ValueError("Redis Cluster is not supported: Celery's queues need one primary (see docs/explanation)")
    if scheme not in {"redis", "rediss"}:
        raise ValueError("must be a redis:// or rediss:// URL")
    return url


class Settings(BaseSettings):
    """What every service reads."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(
        description="The Redis or Valkey that holds queues and records. One primary, AOF, `appendfsync always`, "
        "`noeviction`."
    )
    key_prefix: str = Field(default="offload:", description="Set before every key, so that a database can be shared.")
    result_expires_seconds: Count = Field(
        default=3600, description="How long a record stays after its task has ended. Celery's `result_expires`."
    )
    dead_letter_retention_seconds: Count = Field(
        default=1_209_600, description="How long a dead letter, its record and its input are kept: 14 days."
    )
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="The least log level.")

    @property
    def broker_prefix(self) -> str:
        """The broker's key prefix: queue `images` has its messages under ``offload:queue:images:live``."""
        return f"{self.key_prefix}queue:"


class BlobSettings(BaseSettings):
    """Where uploads and outputs are."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    blob_url: str = Field(
        pattern=r"^(file:///|s3://).+",
        description="`s3://bucket` in production, `file:///folder` on one machine.",
    )
    s3_endpoint: str | None = Field(default=None, description="The S3 server's URL, where it is not Amazon's.")
    s3_region: str = Field(default="us-east-1", description="The bucket's region.")
    s3_access_key_id: SecretStr | None = Field(default=None, description="The S3 user. Without it: the pod's identity.")
    s3_secret_access_key: SecretStr | None = Field(default=None, description="The S3 user's secret.")
    blob_timeout_seconds: Seconds = Field(default=30, description="One request to the blob store, with its retries.")


class LinkSettings(BaseSettings):
    """Links to outputs that open without an API key."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    public_url: str = Field(
        default="http://localhost:8080",
        pattern="^https?://",
        description="The gateway's address as users see it; it stands in mails.",
    )
    link_secret: SecretStr = Field(
        min_length=32,
        description="Signs the links in mails; the same in gateway and mail-worker, 32 characters or more.",
    )
    output_retention_seconds: Count = Field(
        default=604_800, description="How long outputs and the links to them live: 7 days."
    )


class WorkerSettings(BaseSettings):
    """How a Celery worker runs. Concurrency and pool have each service's own default."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    lease_seconds: Annotated[float, Field(ge=1)] = Field(
        default=10, description="A killed worker's tasks are back after at most this and one sweep."
    )
    delivery_limit: Count = Field(
        default=3, description="Deliveries that a task alone is blamed for before it is buried."
    )
    shared_delivery_limit: Count = Field(default=10, description="The same for those that ended with others of a node.")
    sweep_interval_seconds: Seconds = Field(default=1, description="How often leases and due tasks are looked at.")
    unknown_task_grace_seconds: Count = Field(
        default=600, description="How long a task that this version does not know waits for one that does."
    )
    max_retries: Annotated[int, Field(ge=0)] = Field(default=3, description="Retries of a step that may heal.")
    retry_backoff_seconds: Annotated[float, Field(ge=0)] = Field(
        default=60, description="The first pause before a retry, doubled each time (60, 120, 240), with jitter."
    )
    soft_time_limit_seconds: Count = Field(default=300, description="A step is told to stop after this (prefork only).")
    hard_time_limit_seconds: Count = Field(default=360, description="A step is ended after this (prefork only).")
    max_tasks_per_child: Annotated[int, Field(ge=0)] = Field(
        default=0, description="A pool process is replaced after so many tasks; 0: never (prefork only)."
    )
    liveness_file: str | None = Field(
        default=None, description="Stamped once a second while the worker consumes; for a liveness probe."
    )

    def model_post_init(self, context: object, /) -> None:
        """Refuse what cannot work together."""
        super().model_post_init(context)
        if self.soft_time_limit_seconds >= self.hard_time_limit_seconds:
            raise SettingsError("OFFLOAD_SOFT_TIME_LIMIT_SECONDS must be less than OFFLOAD_HARD_TIME_LIMIT_SECONDS")
