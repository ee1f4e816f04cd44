"""Redis as our services use it: found by URL or by Sentinel, bounded in time, and waited for."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, OutOfMemoryError, ReadOnlyError, TimeoutError  # noqa: A004
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis as AsyncRedis

    from offload_runtime.settings import Settings

logger = logging.getLogger(__name__)

# Redis is away, starting, full, or a replica for the moment: waiting helps, and nothing has been written.
AWAY = (ConnectionError, TimeoutError, BusyLoadingError, OutOfMemoryError, ReadOnlyError)

SOCKET_TIMEOUT_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 1.0
SENTINEL_PORT = 26379


def connect(settings: Settings, *, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> redis.Redis:
    """Return a client that answers or fails within `timeout_seconds`, and repeats nothing by itself."""
    options = _bounds(timeout_seconds) | {"retry": Retry(NoBackoff(), 0)}
    if not is_sentinel(settings):
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
    if not is_sentinel(settings):
        return redis_asyncio.Redis.from_url(settings.redis_url, **options)
    asked = sentinel_options(settings, timeout_seconds)
    found = redis_asyncio.Sentinel(sentinels(settings), sentinel_kwargs=asked, **options)  # type: ignore[no-untyped-call]  # the same
    client: AsyncRedis = found.master_for(settings.redis_sentinel_master or "", **_login(settings), **options)
    return client


def is_sentinel(settings: Settings) -> bool:
    """Return whether the primary is found by Sentinel."""
    return settings.redis_url.startswith("sentinel:")


def broker_url(settings: Settings) -> str:
    """Return the URL as kombu wants it: with Sentinel, that of one of them."""
    if not is_sentinel(settings):
        return settings.redis_url
    url = urlsplit(settings.redis_url)
    login, _, nodes = url.netloc.rpartition("@")
    return f"sentinel://{login + '@' if login else ''}{nodes.partition(',')[0]}{url.path}"


def sentinels(settings: Settings) -> list[tuple[str, int]]:
    """Return the Sentinels' hosts and ports."""
    nodes = urlsplit(settings.redis_url).netloc.rpartition("@")[2].split(",")
    parts = [urlsplit(f"//{node}") for node in nodes]
    return [(part.hostname or "", part.port or SENTINEL_PORT) for part in parts]


def sentinel_options(settings: Settings, timeout_seconds: float) -> dict[str, Any]:
    """Return how the Sentinels themselves are asked."""
    password = settings.redis_sentinel_password
    return _bounds(timeout_seconds) | ({"password": password.get_secret_value()} if password else {})


def _bounds(timeout_seconds: float) -> dict[str, Any]:
    return {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}


def _login(settings: Settings) -> dict[str, Any]:
    """Return the user, password and database of a primary that Sentinel names."""
    url = urlsplit(broker_url(settings))
    login = {"username": unquote(url.username or "") or None, "password": unquote(url.password or "") or None}
    return login | {"db": int(url.path.strip("/") or 0)}


def patiently[T](action: Callable[[], T], what: str, *, give_up: Callable[[], bool] = lambda: False) -> T:
    """Do `action`, again and again while Redis is away: an outage is nobody's failure.

    `action` must be safe to repeat. When `give_up` says so, the last error is raised.
    """
    pause = 0.05
    waited_since = time.monotonic()
    warned = False
    while True:
        try:
            result = action()
        except AWAY as error:
            if give_up():
                raise
            if not warned:
                logger.warning("waiting for Redis: %s: %s", what, type(error).__name__)
                warned = True
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        else:
            if warned:
                logger.info("went on after %.1f s without Redis: %s", time.monotonic() - waited_since, what)
            return result
