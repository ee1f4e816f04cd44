"""API keys: at least 128 random bits, kept as SHA-256. A slow hash would be the accept path's whole cost."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.problems import Problem
from offload_runtime.settings import SettingsError

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

_LINE = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,64}):(?P<digest>[0-9a-f]{64})(:(?P<scopes>[a-z,]+))?")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    name: str
    scopes: frozenset[str]

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
        lines = list(settings.api_keys)
        if settings.api_keys_file is not None:
            text = Path(settings.api_keys_file).read_text(encoding="utf-8")
            lines += [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]
        self._callers = dict(map(_parse, lines))
        self._open = settings.development_mode
        if self._open:
            logger.warning("DEVELOPMENT MODE: every request is served without an API key, as an operator's")
        elif not self._callers:
            raise SettingsError(
                "no API keys: set OFFLOAD_API_KEYS or OFFLOAD_API_KEYS_FILE (`python -m gateway new-key NAME` makes "
                "one), or OFFLOAD_DEVELOPMENT_MODE=true on your own machine"
            )

    def caller(self, request: Request) -> Caller:
        """Return who sends a request.

        Raises:
            Problem: 401 ``auth.missing`` without a key, 403 ``auth.refused`` with one that is not known.

        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        if not token:
            if self._open:
                return DEVELOPER
            raise Problem(HTTPStatus.UNAUTHORIZED, "auth.missing", "send an API key: Authorization: Bearer offload_…")
        # A digest is looked up, never a key compared: there is no time to be measured.
        caller = self._callers.get(digest(token))
        if caller is None:
            raise Problem(HTTPStatus.FORBIDDEN, "auth.refused", "this API key is not known")
        return caller


def digest(key: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key(name: str, scopes: Iterable[str]) -> tuple[str, str]:
    """Return a new key of 256 random bits, and the line that makes it known."""
    key = PREFIX + secrets.token_urlsafe(32)
    line = f"{name}:{digest(key)}:{','.join(sorted(scopes))}"
    _parse(line)
    return key, line


def _parse(line: str) -> tuple[str, Caller]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise SettingsError("an API key must be given as name:sha256[:scope,scope]")
    scopes = frozenset((match["scopes"] or TASKS).split(","))
    if not scopes <= SCOPES:
        raise SettingsError(f"the API key {match['name']} has a scope that there is not: {sorted(scopes - SCOPES)}")
    return match["digest"], Caller(match["name"], scopes)
