"""The broker of an adopted application: each message is published by one script with the record of its task."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery._state import get_current_app

from celery_leases import transport as leases
from celery_leases.failures import body_of
from celery_leases.options import InvalidOptionError
from offload_core import redis_client, telemetry
from offload_core.messages import PUBLISHED_AT, Envelope
from offload_core.records import AdoptedTask
from offload_core.task_store import TaskStore
from offload_worker import celery_app
from offload_worker.adoption import application, settings
from offload_worker.adoption.scheme import SCHEME
from offload_worker.adoption.values import value_of

if TYPE_CHECKING:
    from celery_leases.scripts import Argument
    from offload_worker.adoption.settings import AdoptionSettings

# Among kombu's options of the transport, which it copies into each clone of a connection.
SETTINGS = "offload_settings"


class _Records:
    """What our channels do beside those of the broker alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- kombu's signature
        client = (args[0] if args else kwargs["connection"]).client
        self.settings: AdoptionSettings = client.transport_options[SETTINGS]
        self.store = TaskStore.of(self.settings)
        super().__init__(*args, **kwargs)

    def _put(self, queue: str, message: dict[str, Any], **kwargs: object) -> None:
        headers = message.get("headers") or {}
        if "task" in headers:
            headers.setdefault(PUBLISHED_AT, time.time())
            if "traceparent" not in headers:
                headers.update(telemetry.trace_headers())
        super()._put(queue, message, **kwargs)  # type: ignore[misc]

    def _publish(self, message: dict[str, Any], arguments: list[Argument]) -> Any:  # noqa: ANN401 -- the script's answer
        headers = message.get("headers") or {}
        if "task" not in headers or "id" not in headers:
            return super()._publish(message, arguments)  # type: ignore[misc]
        _, queue, message_key, text, due_ms, priority = arguments
        envelope = Envelope(str(queue), str(message_key), str(text), int(due_ms))
        task = _task(message, str(queue), self.settings.owner)
        return self.store.adopt(task, envelope, int(priority)).run(self._plain_client)

    def basic_consume(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 -- kombu's signature
        app = get_current_app()
        if app.use_fast_trace_task and not application.is_prepared(app):
            # A worker that neither `celery` nor `worker_main` has started: nothing would ask the records.
            raise InvalidOptionError("call offload_worker.adopt(app) before the worker is made")
        return super().basic_consume(*args, **kwargs)  # type: ignore[misc]

    if TYPE_CHECKING:  # What the broker's channel brings.
        _plain_client: Any


class Channel(_Records, leases.Channel):
    """A channel on one Redis."""


class SentinelChannel(_Records, leases.SentinelChannel):
    """A channel on the primary that Sentinel names."""


class Adopted:
    """What our transports do beside those of the broker alone."""

    layout = SCHEME

    def __init__(self, client: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- kombu's signature
        """Read Offload's settings, once for a connection and its clones.

        Raises:
            InvalidOptionError: when they or the URL cannot be used.

        """
        application.install()
        if SETTINGS not in client.transport_options:
            found = settings.read(client.hostname if self.reads_url else None)
            options = celery_app.broker_options(found) | celery_app.consumer_options(found)
            options |= {SETTINGS: found, "on_dead_letter": "offload_worker.adoption.results:tell"}
            client.transport_options = options | client.transport_options | {"key_prefix": found.broker_prefix}
            client.hostname = redis_client.broker_url(found)
            # kombu would put it before the host's name in each clone.
            client.uri_prefix = None
        super().__init__(client, **kwargs)  # type: ignore[call-arg]  # the broker's transport

    # Whether the broker URL is the address of Redis.
    reads_url = True


class Transport(Adopted, leases.Transport):
    """Celery's broker with leases and records on one Redis or Valkey: ``offload+redis://``, ``offload+rediss://``."""

    Channel = Channel


class SentinelTransport(Adopted, leases.SentinelTransport):
    """The same with Sentinel, whose addresses are Offload's setting: see `offload_worker.adopt`."""

    Channel = SentinelChannel
    reads_url = False


def _task(message: dict[str, Any], queue: str, owner: str) -> AdoptedTask:
    headers = message["headers"]
    root_id = headers.get("root_id") or headers["id"]
    args, _, embedded = body_of(message)
    steps: list[dict[str, Any]] = [{"name": headers["task"], "queue": queue, "id": headers["id"]}]
    for signature in reversed(embedded.get("chain") or ()):
        options = signature.get("options") or {}
        if signature.get("subtask_type") or not options.get("task_id"):
            break  # a group or a chord: what it leads to is not known yet, and gets records of its own
        step = {"name": signature["task"], "queue": options.get("queue") or queue, "id": options["task_id"]}
        steps.append(step | ({"immutable": True} if signature.get("immutable") else {}))
    return AdoptedTask(
        celery_id=headers["id"],
        root_id=root_id,
        steps=tuple(steps),
        owner=owner,
        # Of later steps of a chain, which have the id of its first one too.
        given=value_of(args[0]) if args and root_id != headers["id"] else {},
        trace_id=telemetry.trace_id_of(headers),
        metadata={"group_id": headers["group"]} if headers.get("group") else None,
    )
