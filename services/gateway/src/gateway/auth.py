"""API keys: at least 128 random bits, kept as SHA-256. A slow hash would be the accept path's whole cost."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.problems import Problem
from offload_core.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastapi import Request

    from gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

# May see tracebacks, and every key's tasks.
OPERATOR = "operator"
# May post and read its own tasks: what every key may that names no scope.
TASKS = "tasks"
SCOPES = frozenset({OPERATOR, TASKS})
PREFIX = "offload_"

# Tasks of our own are theirs.
RESERVED_NAMES = frozenset({"beat", "development", "offload"})
# How often the key file is looked at.
WATCH_SECONDS = 1.0

_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9_.-]{1,64}):(?P<digest>[0-9a-f]{64})(:(?P<scopes>[a-z,]+)(:(?P<expires>[0-9TZ:.+-]+))?)?"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    name: str
    scopes: frozenset[str]
    # When the key ends, in seconds since the epoch; None: never.
    expires_at: float | None = None

    @property
    def is_operator(self) -> bool:
        """Whether this key may see what is for operators."""
        return OPERATOR in self.scopes


DEVELOPER = Caller("development", SCOPES)


class Keys:
    """The keys that this gateway knows, by digest."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Read them.

        Raises:
            SettingsError: when a line is not a key, or when there is none and development mode is off.

        """
        self._lines = settings.api_keys
        self._file = Path(settings.api_keys_file) if settings.api_keys_file is not None else None
        self._seen = self._version()
        self._callers = self._read()
        self._open = settings.development_mode
        if self._open:
            logger.warning("DEVELOPMENT MODE: every request is served without an API key, as an operator's")
        elif not self._callers:
            raise SettingsError(
                "no API keys: set OFFLOAD_API_KEYS or OFFLOAD_API_KEYS_FILE (`python -m gateway new-key NAME` makes "
                "one), or OFFLOAD_DEVELOPMENT_MODE=true on your own machine"
            )

    async def refresh(self) -> None:
        """Read the file again if it has changed. A file that cannot be read changes nothing, and is logged."""
        version = self._version()
        if version is None or version == self._seen:
            return
        self._seen = version
        try:
            self._callers = self._read()
        except (SettingsError, OSError, UnicodeDecodeError):
            logger.exception("the API keys stay as they were: the changed key file cannot be read")
        else:
            logger.info("API keys were read again: %d", len(self._callers))

    def _version(self) -> tuple[int, int, int] | None:
        """Return what changes with the file, also where it is a link that is switched (a mounted Secret)."""
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _read(self) -> dict[str, Caller]:
        lines = list(self._lines)
        if self._file is not None:
            text = self._file.read_text(encoding="utf-8")
            lines += [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]
        return dict(map(_parse, lines))

    def caller(self, request: Request) -> Caller:
        """Return who sends a request.

        Raises:
            Problem: 401 ``auth.missing`` without a key, ``auth.refused`` with one that is not known or has expired.

        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        if not token:
            if self._open:
                return DEVELOPER
            raise Problem(HTTPStatus.UNAUTHORIZED, "auth.missing", "send an API key: Authorization: Bearer offload_…")
        # A digest is looked up, never a key compared: there is no time to be measured.
        caller = self._callers.get(digest(token))
        if caller is None or (caller.expires_at is not None and caller.expires_at <= time.time()):
            raise Problem(HTTPStatus.UNAUTHORIZED, "auth.refused", "this API key is not known, or has expired")
        return caller


def digest(key: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key(name: str, scopes: Iterable[str], expires: str | None = None) -> tuple[str, str]:
    """Return a new key of 256 random bits, and the line that makes it known.

    Raises:
        SettingsError: when the name, a scope or the expiry (RFC 3339, or a date) cannot be one.

    """
    key = PREFIX + secrets.token_urlsafe(32)
    line = f"{name}:{digest(key)}:{','.join(sorted(scopes))}" + (f":{expires}" if expires else "")
    _parse(line)
    return key, line


def _parse(line: str) -> tuple[str, Caller]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise SettingsError("an API key must be given as name:sha256[:scope,scope[:expiry]]")
    name = match["name"]
    if name in RESERVED_NAMES:
        raise SettingsError(f"an API key cannot be named {name}: the name is reserved")
    scopes = frozenset((match["scopes"] or TASKS).split(","))
    if not scopes <= SCOPES:
        raise SettingsError(f"the API key {name} has an unknown scope: {sorted(scopes - SCOPES)}")
    return match["digest"], Caller(name, scopes, _expiry(name, match["expires"]))


def _expiry(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"the API key {name} has an invalid expiry: {text}") from None
    # A date, or a time without a zone, is meant in UTC.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
