"""The egress guard: where a connection may go is decided where it is made.

A name is resolved once. Unless every address that it has may be called, none is; the connection then goes to an address
of that answer, so that a name which resolves to something else a moment later changes nothing. Host header, TLS server
name and certificate are those of the URL.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ipaddress
import socket
from typing import TYPE_CHECKING, Any

import httpcore2

from http_worker.addresses import is_public
from offload_core.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from http_worker.addresses import Address
    from http_worker.settings import HttpWorkerSettings

# Of servers that take a line of HTTP for one of their own: "bad ports" of the Fetch standard, section 2.9.
# https://fetch.spec.whatwg.org/#port-blocking
BAD_PORTS = frozenset(
    [
        0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
        110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530,
        531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190,
        5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
    ]
)  # fmt: skip
# Names that do not answer occupy a thread each until their resolver gives up.
RESOLVER_THREADS = 32


class EgressRefusedError(PermanentError):
    """The URL leads to where nothing may be called."""

    def __init__(self, host: str, why: str) -> None:
        """Say it without the address: a caller learns nothing of what is inside."""
        super().__init__("egress.refused", f"{host} must not be called: {why}")


class Guard(httpcore2.AsyncNetworkBackend):
    """Makes the connections of a pool of `httpcore2`."""

    def __init__(self, settings: HttpWorkerSettings) -> None:
        """Take what may be called beside the Internet."""
        self._names = settings.allowed_names
        self._networks = settings.allowed_networks
        self._backend = httpcore2.AnyIOBackend()
        self._resolver = concurrent.futures.ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolver")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 -- httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that answers, of a host that may be called.

        Raises:
            EgressRefusedError: when it may not.
            TemporaryError: ``http.unresolved`` when the name has no address now.

        """
        refused: Exception | None = None
        for address in await self.addresses(host, port):
            try:
                return await self._backend.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                refused = error
        assert refused is not None  # noqa: S101 -- there is an address, or `addresses` raises
        raise refused

    async def connect_unix_socket(self, *_: object, **__: object) -> httpcore2.AsyncNetworkStream:
        """Refuse.

        Raises:
            EgressRefusedError: always.

        """
        raise EgressRefusedError("a Unix socket", "it is this machine's own")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, all of which may be called.

        Raises:
            EgressRefusedError: when one may not.
            TemporaryError: ``http.unresolved`` when the name has none now.

        """
        if port in BAD_PORTS:
            raise EgressRefusedError(host, f"port {port} belongs to another protocol")
        found = await self._resolve(host, port)
        if not self._is_allowed(host) and not all(self._may_be_called(one) for one in found):
            raise EgressRefusedError(host, "it is not on the Internet")
        return found

    async def _resolve(self, host: str, port: int) -> list[Address]:
        def look_up() -> list[Any]:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)

        try:
            found = await asyncio.get_running_loop().run_in_executor(self._resolver, look_up)
        except (OSError, UnicodeError) as error:
            raise TemporaryError("http.unresolved", f"{host} has no address") from error
        return list(dict.fromkeys(ipaddress.ip_address(address[0]) for *_, address in found))

    def _is_allowed(self, host: str) -> bool:
        name = host.lower().rstrip(".")
        return any(
            name.endswith(allowed[1:]) if allowed.startswith("*.") else name == allowed for allowed in self._names
        )

    def _may_be_called(self, address: Address) -> bool:
        plain = getattr(address, "ipv4_mapped", None) or address
        return is_public(address) or any(plain in network for network in self._networks)
