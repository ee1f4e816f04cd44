"""One HTTP request, bounded in time and size: through the egress guard, or through the operator's proxy."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks the latter

import httpcore2
import httpx2

from http_worker.egress import Guard
from offload_core.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from http_worker.settings import HttpWorkerSettings

CONNECT_SECONDS = 10.0
# Of a connection that nobody uses.
KEEPALIVE_SECONDS = 30.0
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Answer(NamedTuple):
    """What the receiver answered; `is_whole` is whether `body` is all of it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_whole: bool
    duration_seconds: float

    def header(self, name: str) -> str | None:
        """Return the first header of a name, in lower case."""
        return next((value for own, value in self.headers if own == name), None)


class Client:
    """Sends requests, HTTP/2 where the receiver speaks it. Follows no redirect, keeps no cookie, decodes nothing."""

    def __init__(self, settings: HttpWorkerSettings) -> None:
        """Take the settings; the proxy is that of ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``."""
        self._guard = Guard(settings)
        self._connections = settings.concurrency
        self._pools: dict[str | None, httpcore2.AsyncConnectionPool] = {}

    async def aclose(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            await pool.aclose()

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout_seconds: float,
        limit_bytes: int,
    ) -> Answer:
        """Send a request and return the answer, of whose body no more than `limit_bytes` are read.

        Raises:
            PermanentError: ``http.url_invalid``, ``egress.refused``.
            TemporaryError: ``http.timeout`` after `timeout_seconds` in all, ``http.unresolved``, ``http.unreachable``,
                ``http.tls_failed``, ``http.disconnected``.

        """
        target = parse(url)
        host = target.host
        port = target.port or _DEFAULT_PORTS[target.scheme]
        sent = [(b"Host", target.netloc), *((name.encode(), value.encode()) for name, value in headers.items())]
        if body or method not in {"GET", "HEAD", "OPTIONS", "DELETE"}:
            sent.append((b"Content-Length", str(len(body)).encode()))
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout_seconds):
                pool = await self._pool(target, host, port)
                async with pool.stream(
                    method.encode(),
                    httpcore2.URL(
                        scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
                    ),
                    headers=sent,
                    content=body,
                    extensions={"timeout": {"connect": min(CONNECT_SECONDS, timeout_seconds)}},
                ) as response:
                    content, is_whole = await _read(response, limit_bytes)
        except TimeoutError as error:
            raise TemporaryError("http.timeout", f"{host} did not answer within {timeout_seconds:g} s") from error
        except httpcore2.TimeoutException as error:
            raise TemporaryError("http.unreachable", f"{host} cannot be reached") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError) as error:
            raise _failure(host, error) from error
        return Answer(
            response.status,
            [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers],
            content,
            is_whole,
            time.monotonic() - began,
        )

    async def _pool(self, target: httpx2.URL, host: str, port: int) -> httpcore2.AsyncConnectionPool:
        proxy = _proxy(target.scheme, host)
        if proxy is not None:
            # The proxy resolves the name and guards what it reaches. What can be seen from here is refused here.
            with contextlib.suppress(TemporaryError):
                await self._guard.addresses(host, port)
        if proxy not in self._pools:
            self._pools[proxy] = self._make_pool(proxy)
        return self._pools[proxy]

    def _make_pool(self, proxy: str | None) -> httpcore2.AsyncConnectionPool:
        if proxy is None:
            return httpcore2.AsyncConnectionPool(
                ssl_context=ssl.create_default_context(),
                max_connections=self._connections,
                keepalive_expiry=KEEPALIVE_SECONDS,
                http2=True,
                network_backend=self._guard,
            )
        url = httpx2.URL(proxy)
        return httpcore2.AsyncHTTPProxy(
            proxy_url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=b"/"),
            proxy_auth=(url.username, url.password) if url.username else None,
            ssl_context=ssl.create_default_context(),
            max_connections=self._connections,
            keepalive_expiry=KEEPALIVE_SECONDS,
            http2=True,
        )


def parse(url: str) -> httpx2.URL:
    """Return a URL that can be called.

    Raises:
        PermanentError: ``http.url_invalid`` for any other.

    """
    try:
        found = httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
        raise PermanentError("http.url_invalid", "the URL cannot be understood") from error
    if found.scheme not in _DEFAULT_PORTS or not found.host:
        raise PermanentError("http.url_invalid", "the URL must begin with http:// or https:// and a host")
    if found.port == 0:
        # httpcore takes it for none.
        raise PermanentError("http.url_invalid", "there is no port 0")
    if found.userinfo:
        raise PermanentError("http.url_invalid", "the URL must hold no user name and no password")
    return found


def _proxy(scheme: str, host: str) -> str | None:
    proxies = getproxies_environment()
    if scheme not in proxies or proxy_bypass_environment(host, proxies):
        return None
    return proxies[scheme]


async def _read(response: httpcore2.Response, limit: int) -> tuple[bytes, bool]:
    """Return the beginning of a response's body, and whether that is all of it."""
    found = bytearray()
    async for piece in response.aiter_stream():
        found += piece
        if len(found) > limit:
            return bytes(found[:limit]), False
    return bytes(found), True


def _failure(host: str, error: Exception) -> TemporaryError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TemporaryError("http.tls_failed", f"the certificate of {host}: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError):
            return TemporaryError("http.tls_failed", f"{host} does not speak TLS as it should")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (httpcore2.ConnectError, httpcore2.ProxyError)):
        return TemporaryError("http.unreachable", f"{host} cannot be reached")
    return TemporaryError("http.disconnected", f"{host} ended the connection before its answer was there")
