"""What a worker needs so that an unchanged application's tasks keep Offload's promises."""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.app import defaults

from celery_leases import SETTINGS as LEASE_SETTINGS
from offload_core import redis_client, trust
from offload_core.settings import SettingsError
from offload_worker import celery_telemetry, drain, liveness
from offload_worker.adoption import settings as adoption_settings
from offload_worker.adoption.scheme import SCHEME

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

# Of Celery's settings, those without which a task could be lost. The transport is the broker URL's.
REQUIRED = {
    name: value
    for name, value in LEASE_SETTINGS.items()
    if name not in {"broker_transport", "task_publish_retry_policy"}
}

_is_installed = False
# The applications that this process's workers were prepared for: one, but in tests.
_prepared: weakref.WeakSet[Celery] = weakref.WeakSet()


class _LivenessStep(liveness.LivenessStep):
    """Finds the settings where an application of somebody else's has them."""

    def settings_of(self, app: Celery) -> Any:  # noqa: ANN401 -- a service's settings
        return settings_of(app)


def adopt(app: Celery, redis_url: str | None = None) -> Celery:
    """Let a Celery application's tasks run on Offload. Returns the application.

    The broker is at `redis_url`, or at `OFFLOAD_REDIS_URL`; with Sentinel only the latter. An application whose broker
    URL begins with ``offload+`` needs no call. Call it once the application is configured, and before it sends a task
    or makes a worker.

    Raises:
        InvalidOptionError: when Offload's settings cannot be used.

    """
    install()
    found = adoption_settings.read(redis_url)
    url = redis_client.broker_url(found)
    if found.uses_sentinel:
        app.conf.broker_transport = "offload_worker.adoption.transport:SentinelTransport"
    else:
        url = f"{SCHEME}+{url}"
    # Not `broker_url`: of that, an environment variable of Celery's own would take the place.
    app.conf.broker_read_url = app.conf.broker_write_url = url
    _configure(app)
    return app


def install() -> None:
    """Prepare each worker of this process that is about to start for an adopted application."""
    global _is_installed  # noqa: PLW0603 -- signals are the process's
    if not _is_installed:
        _is_installed = True
        signals.celeryd_init.connect(_begin, weak=False)
        signals.worker_init.connect(_imported, weak=False)


def is_prepared(app: Celery) -> bool:
    """Return whether a worker of this application was prepared in this process."""
    return app in _prepared


def settings_of(app: Celery) -> adoption_settings.AdoptionSettings | None:
    """Return the settings of an adopted application; None for any other."""
    from offload_worker.adoption import transport

    with app.connection_for_read() as connection:
        if not issubclass(connection.get_transport_cls(), transport.Adopted):
            return None
        found: adoption_settings.AdoptionSettings = connection.transport.client.transport_options[transport.SETTINGS]
        return found


def changed(app: Celery) -> list[str]:
    """Return the settings of Celery that a worker of this application changes."""
    return [name for name, value in REQUIRED.items() if app.conf[name] != value]


def _configure(app: Celery) -> None:
    app.conf.update(REQUIRED)
    if app.conf.task_publish_retry_policy == defaults.NAMESPACES["task"]["publish_retry_policy"].default:
        app.conf.task_publish_retry_policy = LEASE_SETTINGS["task_publish_retry_policy"]


def _begin(instance: Any, options: dict[str, Any], **_: object) -> None:  # noqa: ANN401 -- Celery's worker
    _prepare(instance.app, str(options.get("pool") or instance.app.conf.worker_pool))


def _imported(sender: Any, **_: object) -> None:  # noqa: ANN401 -- Celery's worker
    """Put the gates: all modules are imported by now, those of --include too, and no process of the pool is there."""
    from offload_worker.adoption import gate

    # Celery's workers for tests begin here.
    _prepare(sender.app, str(sender.app.conf.worker_pool))
    if sender.app in _prepared:
        gate.put_before(sender.app)
        logger.info("adopted by Offload: each task has a record")


def _prepare(app: Celery, pool: str) -> None:
    # It imports what imports this module.
    from offload_worker.adoption import results

    found = settings_of(app)
    if found is None or app in _prepared:
        return
    if app.conf.task_protocol != 2:  # noqa: PLR2004 -- Celery's number
        raise SettingsError(f"task_protocol must be 2 for Offload, not {app.conf.task_protocol}")
    _prepared.add(app)
    trust.install(found.ca_file)
    _configure(app)
    results.record(app, found)
    app.steps["consumer"].add(_LivenessStep)
    celery_telemetry.instrument(app.main or "celery", "prefork" if pool in {"prefork", "processes"} else "threads")
    drain.install(found.drain_seconds)
