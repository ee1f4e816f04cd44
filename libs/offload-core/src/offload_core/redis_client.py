"""Redis as our services use it: found by URL or by Sentinel, bounded in time."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    TimeoutError,  # noqa: A004
)
from redis.retry import Retry

from celery_leases import address

if TYPE_CHECKING:
    from redis.asyncio import Redis as AsyncRedis

    from offload_core.settings import Settings

# Redis is unavailable, starting, full, or a replica for the moment: waiting helps, and nothing has been written.
UNAVAILABLE = (ConnectionError, TimeoutError, BusyLoadingError, OutOfMemoryError, ReadOnlyError)

SOCKET_TIMEOUT_SECONDS = 5.0
SENTINEL_PORT = 26379


def connect(settings: Settings, *, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> redis.Redis:
    """Return a client that answers or fails within `timeout_seconds`, and repeats nothing by itself."""
    options = _bounds(timeout_seconds) | {"retry": Retry(NoBackoff(), 0)}
    if not settings.uses_sentinel:
        return redis.Redis.from_url(settings.redis_url, **options)
    asked = sentinel_options(settings, timeout_seconds)
    found = redis.Sentinel(sentinels(settings), sentinel_kwargs=asked, **options)  # type: ignore[no-untyped-call]  # redis-py has no type here
    client: redis.Redis = found.master_for(settings.redis_sentinel_master, **_login(settings), **options)  # type: ignore[no-untyped-call]  # the same
    return client


def connect_async(settings: Settings, *, timeout_seconds: float) -> AsyncRedis:
    """Return the same for asyncio."""
    from redis import asyncio as redis_asyncio
    from redis.asyncio.retry import Retry as AsyncRetry

    options = _bounds(timeout_seconds) | {"retry": AsyncRetry(NoBackoff(), 0)}
    if not settings.uses_sentinel:
        return redis_asyncio.Redis.from_url(settings.redis_url, **options)
    asked = sentinel_options(settings, timeout_seconds)
    found = redis_asyncio.Sentinel(sentinels(settings), sentinel_kwargs=asked, **options)  # type: ignore[no-untyped-call]  # the same
    client: AsyncRedis = found.master_for(settings.redis_sentinel_master or "", **_login(settings), **options)
    return client


def broker_url(settings: Settings) -> str:
    """Return the URL as kombu wants it: with Sentinel, that of one of them."""
    if not settings.uses_sentinel:
        return settings.redis_url
    url = urlsplit(settings.redis_url)
    login, at, nodes = url.netloc.rpartition("@")
    return url._replace(netloc=f"{login}{at}{nodes.partition(',')[0]}").geturl()


def sentinels(settings: Settings) -> list[tuple[str, int]]:
    """Return the Sentinels' hosts and ports."""
    nodes = urlsplit(settings.redis_url).netloc.rpartition("@")[2].split(",")
    parts = [urlsplit(f"//{node}") for node in nodes]
    return [(part.hostname or "", part.port or SENTINEL_PORT) for part in parts]


def sentinel_options(settings: Settings, timeout_seconds: float) -> dict[str, Any]:
    """Return how the Sentinels themselves are asked."""
    password = settings.redis_sentinel_password
    login = {"password": password.get_secret_value()} if password else {}
    return _bounds(timeout_seconds) | login | _tls(settings)


def _bounds(timeout_seconds: float) -> dict[str, Any]:
    return {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}


def _tls(settings: Settings) -> dict[str, Any]:
    """Return redis-py's options for TLS with the Sentinels and the primary that they name."""
    options = _primary(settings).tls
    return {"ssl": True, **options} if options else {}


def _login(settings: Settings) -> dict[str, Any]:
    """Return how a primary that Sentinel names is logged in to."""
    primary = _primary(settings)
    login = {"username": primary.username, "password": primary.password, "db": int(primary.database or 0)}
    return login | _tls(settings)


def _primary(settings: Settings) -> address.Address:
    return address.resolve(broker_url(settings), address.SENTINEL_SCHEMES)


def cause(error: BaseException) -> str:
    """Return why Redis does not serve, as logs, ``/readyz`` and metrics name it.

    ``certificate``, ``tls_failed``, ``auth_failed`` and ``forbidden`` are for whoever set it up; ``unavailable`` heals.
    """
    found: BaseException | None = error
    while found is not None:
        for kind, name in _CAUSES:
            if isinstance(found, kind):
                return name
        found = found.__cause__ or found.__context__
    return "unavailable"


# The more exact before those that they are kinds of.
_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "certificate"),
    (ssl.SSLError, "tls_failed"),
    (AuthenticationError, "auth_failed"),
    (NoPermissionError, "forbidden"),
)


def time_of(client: redis.Redis) -> datetime:
    """Return the time by Redis's clock, which all services go by."""
    seconds, microseconds = client.time()
    return datetime.fromtimestamp(seconds + microseconds / 1e6, UTC)
