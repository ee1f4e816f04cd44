"""API keys that the environment and the key file name: the first ones, and those that must not depend on Redis."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.scopes import SCOPES, TENANT_SCOPES
from offload_core.settings import SettingsError

if TYPE_CHECKING:
    from gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

# All scopes of a tenant: what a line has that names none, and how lines before 0.3 name them.
TASKS = "tasks"
# Tasks of our own are theirs.
RESERVED_NAMES = frozenset({"beat", "development", "offload"})

_SCOPE = "[a-z]+(?::[a-z]+)?"
_LINE = re.compile(
    r"(?P<tenant>[A-Za-z0-9_.-]{1,64}):(?P<digest>[0-9a-f]{64})"
    rf"(:(?P<scopes>{_SCOPE}(?:,{_SCOPE})*)(:(?P<expires>[0-9TZ:.+-]+))?)?"
)


@dataclass(frozen=True, slots=True)
class ConfiguredKey:
    """A line: whose key it is, its SHA-256, what it may do, and until when (seconds since the epoch, or None)."""

    tenant: str
    digest: str
    scopes: frozenset[str]
    expires_at: float | None

    @classmethod
    def of(cls, line: str) -> ConfiguredKey:
        """Return the key of a line.

        Raises:
            SettingsError: when it is none.

        """
        match = _LINE.fullmatch(line)
        if match is None:
            raise SettingsError("an API key must be given as name:sha256[:scope,scope[:expiry]]")
        tenant = match["tenant"]
        if tenant in RESERVED_NAMES:
            raise SettingsError(f"an API key cannot be named {tenant}: the name is reserved")
        scopes = frozenset((match["scopes"] or TASKS).split(","))
        if unknown := scopes - SCOPES - {TASKS}:
            raise SettingsError(f"the API key {tenant} has an unknown scope: {sorted(unknown)}")
        if TASKS in scopes:
            scopes = scopes - {TASKS} | TENANT_SCOPES
        return cls(tenant, match["digest"], scopes, _expiry(tenant, match["expires"]))


class ConfiguredKeys:
    """The lines as they are now."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Read them.

        Raises:
            SettingsError: when a line is not a key.

        """
        self._lines = settings.api_keys
        self._file = Path(settings.api_keys_file) if settings.api_keys_file is not None else None
        self._seen = self._version()
        self.keys = self._read()

    def refresh(self) -> bool:
        """Read the file again if it has changed; returns whether there are other keys.

        A file that cannot be read changes nothing, and is logged.
        """
        version = self._version()
        if version is None or version == self._seen:
            return False
        self._seen = version
        try:
            self.keys = self._read()
        except (SettingsError, OSError, UnicodeDecodeError):
            logger.exception("the API keys stay as they were: the changed key file cannot be read")
            return False
        logger.info("API keys were read again: %d", len(self.keys))
        return True

    def _version(self) -> tuple[int, int, int] | None:
        """Return what changes with the file, also where it is a link that is switched (a mounted Secret)."""
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _read(self) -> list[ConfiguredKey]:
        lines = list(self._lines)
        if self._file is not None:
            text = self._file.read_text(encoding="utf-8")
            lines += [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]
        return [ConfiguredKey.of(line) for line in lines]


def _expiry(tenant: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"the API key {tenant} has an invalid expiry: {text}") from None
    # A date, or a time without a zone, is meant in UTC.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
