"""The project's settings: only what an outbox and django.tasks need."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = os.environ.get("SECRET_KEY", "only-for-this-example")
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", BASE_DIR / "shop.sqlite3"),
        # Several processes write: each waits for the other, from the first statement of a transaction on.
        "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},
    }
}
INSTALLED_APPS = ["offload_outbox", "orders"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGGING = {
    "version": 1,
    # Celery's would be silent in the worker.
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}

# Where Offload is. In development mode it asks for no key.
OFFLOAD_URL = os.environ.get("OFFLOAD", "http://127.0.0.1:8080")
OFFLOAD_API_KEY = os.environ.get("OFFLOAD_API_KEY", "")

# Celery's tasks run on Offload by this URL alone; their results are kept beside it.
CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "offload+redis://127.0.0.1:6379/0")
CELERY_RESULT_BACKEND = os.environ.get("CELERY_RESULT_BACKEND", CELERY_BROKER_URL.removeprefix("offload+"))
TASKS = {"default": {"BACKEND": "offload_outbox.backend.OffloadBackend"}}
