"""docs/reference/settings.md, written from the settings classes, so that neither can lack what the other has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from http_worker.settings import HttpWorkerSettings
from pydantic_core import PydanticUndefined

from beat.settings import BeatSettings
from gateway.settings import GatewaySettings
from housekeeper.settings import HousekeeperSettings
from image_worker.settings import ImageWorkerSettings
from mail_worker.settings import MailWorkerSettings
from offload_worker.adoption.settings import AdoptionSettings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings

SERVICES: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "image-worker": ImageWorkerSettings,
    "mail-worker": MailWorkerSettings,
    "http-worker": HttpWorkerSettings,
    "housekeeper": HousekeeperSettings,
    "beat": BeatSettings,
    "adopted Celery application": AdoptionSettings,
}

_HEAD = """# Settings

Every service reads its settings from environment variables. A value that is wrong, or a required one that is missing,
ends the service at its start with the variable's name. Telemetry is configured by OpenTelemetry's own `OTEL_*`
variables: without `OTEL_EXPORTER_OTLP_ENDPOINT` there is none.

Some of Celery's settings are fixed, because the promises need them: `task_acks_late`, `task_reject_on_worker_lost`,
`worker_disable_prefetch`, `broker_connection_max_retries`, and JSON as the only content (`accept_content`). A service
that finds another value refuses to start.

This page is written by `make docs`; a test compares it with the code.

| variable | default | services | meaning |
| --- | --- | --- | --- |
"""


def variables() -> dict[str, dict[str, FieldInfo]]:
    """Return each variable with the services that read it, and the field of each."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for service, settings in SERVICES.items():
        for name, field in settings.model_fields.items():
            found.setdefault(f"OFFLOAD_{name.upper()}", {})[service] = field
    return dict(sorted(found.items()))


def render() -> str:
    """Return the page."""
    lines = []
    for name, fields in variables().items():
        readers = "all" if len(fields) == len(SERVICES) else ", ".join(fields)
        # A service may have a default of its own.
        defaults = dict.fromkeys(map(_default, fields.values()))
        (meaning,) = {field.description for field in fields.values()}
        lines.append(f"| `{name}` | {', '.join(defaults)} | {readers} | {meaning} |")
    return _HEAD + "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    return "**required**" if field.is_required() else f"`{_shown(field.default)}`"


def _shown(value: object) -> str:
    if value is None or value == () or value is PydanticUndefined:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
