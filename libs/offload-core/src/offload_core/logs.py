"""Logs as JSON lines with the ids that lead from one to the other: ``trace_id`` and ``task_id``."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from opentelemetry import trace

from offload_core.private import scrub

# The id of the task that this code works for; set by the worker, empty elsewhere.
task_id: ContextVar[str] = ContextVar("task_id", default="")

# The id of the request that is being answered; set by the gateway, empty elsewhere.
request_id: ContextVar[str] = ContextVar("request_id", default="")

# A domain with a dot: the names of workers (image@host) are not addresses.
_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")


# An address as a query carries it, with its sign encoded.
_ENCODED_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]+%40[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", re.IGNORECASE)
# What opens an output, and what opens the API.
_TOKEN = re.compile(r"(token=)[A-Za-z0-9._%-]+")
_API_KEY = re.compile(r"offload_[A-Za-z0-9_-]{20,}")
# The query of a URL, wherever one stands in a text.
_QUERY = re.compile(r"((?:https?://|/v1/)[^\s?\"'<>]*\?)[^\s\"'<>]*")


def redact(text: str) -> str:
    """Return the text without e-mail addresses, queries of URLs, links' tokens, API keys and what is private now."""
    text = scrub(text)
    text = _QUERY.sub(r"\1<redacted>", text)
    text = _ENCODED_ADDRESS.sub("<address>", _ADDRESS.sub("<address>", text))
    return _API_KEY.sub("<key>", _TOKEN.sub(r"\1<redacted>", text))


class JsonFormatter(logging.Formatter):
    """One JSON object a line. What `redact` leaves out stands in none, nor in its exception."""

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
        if request_id.get():
            line["request_id"] = request_id.get()
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
