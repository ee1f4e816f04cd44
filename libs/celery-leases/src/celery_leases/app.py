"""A Celery application without tasks, for tools: ``celery -A celery_leases.app -b redis://… inspect ping``.

The key prefix of the workers' application, if it is not the usual one, stands in the environment variable
``CELERY_LEASES_KEY_PREFIX``.
"""

from __future__ import annotations

import os

from celery import Celery

from celery_leases import SETTINGS

app = Celery("celery_leases", set_as_current=False)
app.conf.update(SETTINGS)
if prefix := os.environ.get("CELERY_LEASES_KEY_PREFIX"):
    app.conf.broker_transport_options = {"key_prefix": prefix}
