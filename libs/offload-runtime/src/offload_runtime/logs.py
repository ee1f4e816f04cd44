"""Logs as JSON lines with the ids that lead from one to the other: ``trace_id`` and ``task_id``."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from opentelemetry import trace

# The id of the task that this code works for; set by the worker, empty elsewhere.
task_id: ContextVar[str] = ContextVar("task_id", default="")

# A domain with a dot: the names of workers (image@host) are not addresses.
_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")


def redact(text: str) -> str:
    """Return the text with e-mail addresses left out."""
    return _ADDRESS.sub("<address>", text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line. Addresses are left out, of exceptions too."""

    def __init__(self, service: str) -> None:
        """Name the service in each line."""
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = f"{context.trace_id:032x}"
        if task_id.get():
            line["task_id"] = task_id.get()
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def configure(service: str, level: str) -> None:
    """Send all logs to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
