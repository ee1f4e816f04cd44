"""The Celery application of a worker or of beat, made from its settings."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import kombu
from celery import Celery, signals
from celery.app import amqp, trace

from celery_leases import SETTINGS as LEASE_SETTINGS
from offload_contracts.contract import Queue
from offload_contracts.registry import ALL
from offload_core import redis_client, trust
from offload_core.messages import HIDDEN
from offload_core.settings import SettingsError
from offload_worker import dead_letters, liveness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from offload_core.settings import ConsumerSettings, Settings, WorkerSettings

# Kept as they are, or the promises do not hold: see docs/explanation/reliability.md.
REQUIRED = {name: value for name, value in LEASE_SETTINGS.items() if name != "task_publish_retry_policy"} | {
    "accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "task_track_started": False,
}
LONGEST_RECONNECT_PAUSE_SECONDS = 2
# A record is written and a mail is published: a second try comes soon when one of them does not answer.
DEAD_LETTER_SECONDS = 5


class Connection(kombu.Connection):
    """Tries to connect again every two seconds at most; kombu's pause grows to thirty."""

    liveness_file: str | None = None

    def _ensure_connection(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 -- kombu's signature
        kwargs |= {"interval_start": 0.2, "interval_step": 0.4, "interval_max": LONGEST_RECONNECT_PAUSE_SECONDS}
        callback: Callable[[], object] | None = kwargs.get("callback")

        def alive() -> None:
            if self.liveness_file is not None:
                liveness.touch(self.liveness_file)
            if callback is not None:
                callback()

        kwargs["callback"] = alive
        return super()._ensure_connection(*args, **kwargs)


class AMQP(amqp.AMQP):
    """Celery's publishing, with arguments kept out of the headers: their printed form holds addresses."""

    Connection = Connection

    def as_task_v2(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 -- Celery's signature
        """Return the message of a task."""
        kwargs |= {"argsrepr": HIDDEN, "kwargsrepr": HIDDEN}
        return super().as_task_v2(*args, **kwargs)


class OffloadApp(Celery):
    """A Celery application that knows its service's settings."""

    settings: Settings
    backend_cls = "offload_worker.backend:RecordBackend"


def _dead_letter(app: OffloadApp, message: dict[str, Any], reason: str) -> None:
    dead_letters.tell(app.backend, message, reason)


def broker_options(settings: Settings) -> dict[str, Any]:
    """Return the broker's options that follow from a service's settings."""
    options: dict[str, Any] = {
        "key_prefix": settings.broker_prefix,
        # The gate does the same with the record itself.
        "tombstone_seconds": 0,
        "dead_letter_retention_seconds": settings.dead_letter_retention_seconds,
        "on_dead_letter_seconds": DEAD_LETTER_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 10,
    }
    if settings.uses_sentinel:
        options["sentinels"] = redis_client.sentinels(settings)
        options["master_name"] = settings.redis_sentinel_master
        options["sentinel_kwargs"] = redis_client.sentinel_options(settings, redis_client.SOCKET_TIMEOUT_SECONDS)
    return options


def consumer_options(worker: ConsumerSettings) -> dict[str, Any]:
    """Return those that follow from how a worker runs."""
    return {
        "lease_seconds": worker.lease_seconds,
        "delivery_limit": worker.delivery_limit,
        "shared_delivery_limit": worker.shared_delivery_limit,
        "sweep_interval_seconds": worker.sweep_interval_seconds,
        "unknown_task_grace_seconds": worker.unknown_task_grace_seconds,
    }


def create_app(
    service: str,
    settings: Settings,
    *,
    worker: WorkerSettings | None = None,
    queues: Iterable[str] = (),
    reads: Callable[[dict[str, Any]], bool] | None = None,
    run_limits: Mapping[str, int] | None = None,
) -> OffloadApp:
    """Return a service's application.

    It can publish to the queues of the built-in fleets and to `queues`; what it consumes, a `Worker` says. `reads` says
    of a message whether this service can read it. `run_limits` are how many runs it has at once, by the task's name.
    """
    trust.install(settings.ca_file)
    # Celery would log the result, which is nobody's but the task's.
    trace.LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss"
    app = OffloadApp(service, amqp="offload_worker.celery_app:AMQP")
    app.settings = settings
    options = broker_options(settings) | {
        "on_dead_letter": partial(_dead_letter, app),
        "reads": reads,
        "run_limit": dict(run_limits or {}).get,
    }
    required = dict(REQUIRED)
    if settings.uses_sentinel:
        required["broker_transport"] = "celery_leases:SentinelTransport"
    app.conf.update(LEASE_SETTINGS)
    app.conf.update(required)
    app.conf.update(
        # Not `broker_url`: of that, an environment variable of Celery's own would take the place.
        broker_read_url=redis_client.broker_url(settings),
        broker_write_url=redis_client.broker_url(settings),
        result_expires=settings.result_expires_seconds,
        task_create_missing_queues=False,
        task_queues=[kombu.Queue(name, routing_key=name) for name in dict.fromkeys([*map(str, Queue), *queues])],
        task_default_queue=Queue.MAINTENANCE.value,
        task_routes={contract.name: {"queue": str(contract.queue)} for contract in ALL},
        enable_utc=True,
        timezone="UTC",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        broker_transport_options=options,
    )
    if worker is not None:
        options |= consumer_options(worker)
        app.conf.update(
            broker_transport_options=options,
            task_soft_time_limit=worker.soft_time_limit_seconds,
            task_time_limit=worker.hard_time_limit_seconds,
            worker_max_tasks_per_child=worker.max_tasks_per_child or None,
        )
        app.steps["consumer"].add(liveness.LivenessStep)
        Connection.liveness_file = worker.liveness_file
    signals.celeryd_init.connect(partial(_refuse_overrides, required=required), weak=False)
    app.set_default()
    return app


def _refuse_overrides(conf: Any, required: Mapping[str, object] = REQUIRED, **_: object) -> None:  # noqa: ANN401 -- Celery's settings
    """Refuse to start with a setting that would break a promise."""
    for name, value in required.items():
        if conf[name] != value:
            message = f"{name} must be {value!r} for Offload's promises to hold, not {conf[name]!r}"
            raise SettingsError(message)
