"""The application's configuration."""

from django.apps import AppConfig


class OffloadOutboxConfig(AppConfig):
    """The outbox."""

    name = "offload_outbox"
    default_auto_field = "django.db.models.BigAutoField"
