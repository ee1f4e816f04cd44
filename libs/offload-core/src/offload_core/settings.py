"""Settings that several services share, in groups. Each service's own class picks the groups that it needs.

All are read from the environment with the prefix ``OFFLOAD_``; a value that is wrong or missing ends the service at its
start with the setting's name. There is no default for an address or a secret.
"""

from __future__ import annotations

from typing import Annotated, Any, Self
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from offload_contracts.contract import QUEUE_NAME

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
# Each worker has its own default.
CONCURRENCY = (
    "Tasks at once: processes in image-worker, one per core; threads in mail-worker (4 by default) and in housekeeper; "
    "coroutines in http-worker (200)."
)


class SettingsError(ValueError):
    """A setting has a value that cannot work."""


def old_name(name: str, old: str) -> AliasChoices:
    """Return how a setting is read that has been renamed: by its name, else by the old one. Both without the prefix."""
    return AliasChoices(f"OFFLOAD_{name}", f"OFFLOAD_{old}")


def old_names(settings: type[BaseSettings]) -> dict[str, str]:
    """Return the old names that a class of settings still reads, each with the one that it has now."""
    renamed = [field.validation_alias for field in settings.model_fields.values()]
    return {str(one.choices[1]): str(one.choices[0]) for one in renamed if isinstance(one, AliasChoices)}


def _redis_url(url: str) -> str:
    scheme = url.split(":", 1)[0]
    if "cluster" in scheme:
        raise ValueError("Redis Cluster is not supported: Celery's queues need one primary (see docs/explanation)")
    if scheme not in {"redis", "rediss", "sentinel", "rediss-sentinel"}:
        raise ValueError("must be a redis://, rediss://, sentinel:// or rediss-sentinel:// URL")
    if "," in url and not scheme.endswith("sentinel"):
        raise ValueError("must name one server; several are for sentinel:// and rediss-sentinel://")
    return url


class Settings(BaseSettings):
    """What every service reads."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(
        description="The Redis or Valkey that holds queues and records. One primary, AOF, `appendfsync always`, "
        "`noeviction`. With Sentinel: `sentinel://host:26379,host:26379/0`. "
        "TLS: `rediss://` and `rediss-sentinel://`; certificates are verified by the system's authorities, or by those "
        "of `?ssl_ca_certs=/path/ca.crt`."
    )
    redis_username: str | None = Field(default=None, description="Redis's ACL user, where it is not in the URL.")
    redis_password: SecretStr | None = Field(default=None, description="Redis's password, where it is not in the URL.")
    redis_sentinel_master: str | None = Field(
        default=None, description="Name of the primary in Sentinel's configuration."
    )
    redis_sentinel_password: SecretStr | None = Field(default=None, description="Password of the Sentinels.")
    key_prefix: str = Field(default="offload:", description="Prefix of every key, so that a database can be shared.")
    result_expires_seconds: Count = Field(
        default=3600, description="How long a record stays after its task has ended. Celery's `result_expires`."
    )
    dead_letter_retention_seconds: Count = Field(
        default=1_209_600, description="How long a dead letter, its record and its input are kept: 14 days."
    )
    ca_file: str | None = Field(
        default=None,
        description="A PEM file of certificate authorities to trust in addition to the system's, for Redis, S3, "
        "SMTP and the collector.",
    )
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Minimum log level.")

    @model_validator(mode="before")
    @classmethod
    def _put_credentials_into_the_url(cls, values: dict[str, Any]) -> dict[str, Any]:
        """One address for every client, though a deployment keeps its secret apart from it."""
        password = values.get("redis_password")
        if password is None or not isinstance(values.get("redis_url"), str):
            return values
        secret = password.get_secret_value() if isinstance(password, SecretStr) else str(password)
        url = urlsplit(values["redis_url"])
        login = f"{quote(values.get('redis_username') or '', safe='')}:{quote(secret, safe='')}"
        return values | {"redis_url": urlunsplit(url._replace(netloc=f"{login}@{url.netloc.rpartition('@')[2]}"))}

    @model_validator(mode="after")
    def _sentinel_needs_a_name(self) -> Self:
        if self.uses_sentinel and not self.redis_sentinel_master:
            raise SettingsError("OFFLOAD_REDIS_SENTINEL_MASTER must be set with a sentinel:// URL")
        return self

    @property
    def uses_sentinel(self) -> bool:
        """Whether the primary is found by Sentinel."""
        return urlsplit(self.redis_url).scheme.endswith("sentinel")

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
    s3_access_key_id: SecretStr | None = Field(default=None, description="S3 access key id. Empty: the pod's identity.")
    s3_secret_access_key: SecretStr | None = Field(default=None, description="S3 secret access key.")
    blob_timeout_seconds: Seconds = Field(
        default=30, description="Timeout of one request to the blob store, retries included."
    )


class RetentionSettings(BaseSettings):
    """How long outputs live."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    output_retention_seconds: Count = Field(
        default=604_800, description="How long outputs and the links to them live: 7 days."
    )

    @property
    def output_retention_ms(self) -> int:
        """The same in milliseconds."""
        return self.output_retention_seconds * 1000


class LinkSettings(RetentionSettings):
    """Links to outputs that open without an API key."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    public_url: str = Field(
        default="http://localhost:8080",
        pattern="^https?://",
        description="The gateway's address as users see it; it stands in mails.",
    )
    link_secret: SecretStr = Field(
        min_length=32,
        description="Signs the links in mails, and callbacks; the same in gateway, mail-worker and http-worker, 32 "
        "characters or more.",
    )


class ConsumerSettings(BaseSettings):
    """How a Celery worker holds messages, and gives them up."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    lease_seconds: Annotated[float, Field(ge=1)] = Field(
        default=10,
        description="How long a worker's hold on a task lasts unless it is renewed. A killed worker's tasks run again "
        "after at most this and one sweep interval.",
    )
    delivery_limit: Count = Field(
        default=3,
        description="Deliveries that ended with the worker's death and for which the task alone can be blamed; at the "
        "limit it becomes a dead letter.",
    )
    shared_delivery_limit: Count = Field(
        default=10,
        description="Deliveries that ended together with other tasks'; at the limit the task becomes a dead letter.",
    )
    sweep_interval_seconds: Seconds = Field(
        default=1, description="How often expired leases and due tasks are looked for."
    )
    unknown_task_grace_seconds: Count = Field(
        default=600, description="How long a task that no worker knows waits for one that does."
    )
    liveness_file: str | None = Field(
        default=None,
        description="Touched once a second while the main loop runs, with or without Redis; for a liveness probe.",
    )
    readiness_file: str | None = Field(
        default=None, description="Touched once a second while tasks are taken; for a readiness probe."
    )


class WorkerSettings(ConsumerSettings):
    """How a worker of the SDK runs. Concurrency and pool have each service's own default."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    max_retries: Annotated[int, Field(ge=0)] = Field(default=3, description="Retries of a step after temporary errors.")
    retry_backoff_seconds: Annotated[float, Field(ge=0)] = Field(
        default=60,
        description="Delay before the first retry, doubled for each further one (60, 120, 240), with jitter.",
    )
    soft_time_limit_seconds: Count = Field(
        default=300, description="Soft time limit: a step is asked to stop (pool prefork only)."
    )
    hard_time_limit_seconds: Count = Field(
        default=360, description="Hard time limit: a step's process is killed (pool prefork only)."
    )
    max_tasks_per_child: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Replace a pool process after so many tasks; 0: never (pool prefork only)."
    )

    def model_post_init(self, context: object, /) -> None:
        """Refuse what cannot work together."""
        super().model_post_init(context)
        if self.soft_time_limit_seconds >= self.hard_time_limit_seconds:
            raise SettingsError("OFFLOAD_SOFT_TIME_LIMIT_SECONDS must be less than OFFLOAD_HARD_TIME_LIMIT_SECONDS")


class DrainSettings(BaseSettings):
    """How a worker stops."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    drain_seconds: Seconds = Field(
        default=420,
        description="Time for running tasks to end after SIGTERM; then they are handed back and the worker exits. "
        "More than the hard time limit, less than the supervisor's grace period.",
    )


class FleetSettings(Settings, WorkerSettings, DrainSettings):
    """What every worker service reads: beside the above, what its fleet consumes, and how it stops."""

    model_config = SettingsConfigDict(env_prefix="OFFLOAD_", extra="ignore", frozen=True)

    fleet: str = Field(
        default="",
        pattern="^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$",
        description="Name of this fleet in the catalogue of task types. Empty: the service's name.",
    )
    queues: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="The queues of this fleet, separated by spaces or commas. Empty: all that the service can serve.",
    )
    concurrency: Count = Field(default=2, description=CONCURRENCY)

    @field_validator("queues", mode="before")
    @classmethod
    def _split_queues(cls, value: object) -> object:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("queues")
    @classmethod
    def _names_of_queues(cls, queues: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [queue for queue in queues if not QUEUE_NAME.fullmatch(queue)]:
            raise ValueError(f"{', '.join(wrong)} cannot be the name of a queue")
        return queues
