"""All of Offload on this machine: Valkey, a mail server, a trace receiver, and the six services as processes."""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Self

import httpx

from devstack.otlp_receiver import OtlpReceiver
from devstack.processes import Process, python
from devstack.servers import RedisServer, free_port
from devstack.smtp_sink import SmtpSink

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

WORKERS = ("image_worker", "mail_worker", "http_worker", "housekeeper")


class Stack:
    """The whole of it, on free ports, with all its files in one folder."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, *, telemetry: bool = True) -> None:
        """Prepare; `settings` are added to every service's environment, `module_settings` to that of one."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.blobs = folder / "blobs"
        self.redis = RedisServer(folder / "redis")
        self.smtp = SmtpSink(free_port(), folder / "mails.jsonl")
        self.otlp = OtlpReceiver(free_port())
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "OFFLOAD_REDIS_URL": self.redis.url,
            "OFFLOAD_BLOB_URL": f"file://{self.blobs}",
            "OFFLOAD_HOST": "127.0.0.1",
            "OFFLOAD_PORT": str(self.port),
            "OFFLOAD_PUBLIC_URL": self.url,
            "OFFLOAD_LINK_SECRET": secrets.token_urlsafe(32),
            "OFFLOAD_DEVELOPMENT_MODE": "true",
            "OFFLOAD_SMTP_HOST": "127.0.0.1",
            "OFFLOAD_SMTP_PORT": str(self.smtp.port),
            "OFFLOAD_SMTP_SECURITY": "none",
            "OFFLOAD_MAIL_FROM": "offload@example.com",
            "C_FORCE_ROOT": "1",
            "OTEL_SDK_DISABLED": "false",
        }
        if telemetry:
            self.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = self.otlp.endpoint
            self.environment["OTEL_BSP_SCHEDULE_DELAY"] = "200"
        self.environment |= settings or {}
        self.module_settings: dict[str, Mapping[str, str]] = {}
        self.processes: list[Process] = []
        self._clients: list[httpx.Client] = []
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Self:
        """Start the servers; services are started one by one."""
        self.redis.start()
        self.smtp.start()
        self.otlp.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all that was started."""
        self.stop()

    def environment_of(self, module: str, settings: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return a service's environment, with `settings` above all others."""
        return self.environment | dict(self.module_settings.get(module, {})) | dict(settings or {})

    def service(self, module: str, *arguments: str, settings: Mapping[str, str] | None = None) -> Process:
        """Start one process of a service."""
        number = sum(process.name.startswith(module) for process in self.processes) + 1
        name = module if number == 1 else f"{module}-{number}"
        environment = self.environment_of(module, settings)
        process = Process(name, python(module, *arguments), self.folder / f"{name}.log", environment)
        self.processes.append(process)
        return process

    def gateway(self, settings: Mapping[str, str] | None = None, *, wait: bool = True) -> Process:
        """Start the gateway."""
        process = self.service("gateway", settings=settings)
        if wait:
            process.wait_for_http(f"{self.url}/healthz")
        return process

    def worker(self, module: str, settings: Mapping[str, str] | None = None, *, wait: bool = True) -> Process:
        """Start a worker: ``image_worker``, ``mail_worker``, ``http_worker`` or ``housekeeper``."""
        count = sum(process.name.startswith(module) for process in self.processes) + 1
        process = self.service(module, "--hostname", f"{module}-{count}@local", settings=settings)
        if wait:
            process.wait_for(" ready.")
        return process

    def own_worker(
        self, worker: str, source: Path, settings: Mapping[str, str] | None = None, *, wait: bool = True
    ) -> Process:
        """Start a worker of one's own, named as ``module:name``, whose code is in the folder `source`."""
        count = sum(process.name.startswith("offload_worker") for process in self.processes) + 1
        own = {"PYTHONPATH": str(source)} | dict(settings or {})
        process = self.service("offload_worker", worker, "--hostname", f"own-{count}@local", settings=own)
        if wait:
            process.wait_for(" ready.")
        return process

    def start_all(self, workers: Iterable[str] = WORKERS) -> None:
        """Start all services, and wait until they are ready."""
        gateway = self.gateway(wait=False)
        started = [self.worker(module, wait=False) for module in workers]
        self.service("beat")
        gateway.wait_for_http(f"{self.url}/healthz")
        for worker in started:
            worker.wait_for(" ready.")

    def client(self, **options: object) -> httpx.Client:
        """Return a client of the gateway; it is closed with the stack."""
        client = httpx.Client(base_url=self.url, timeout=30, **options)  # type: ignore[arg-type]
        self._clients.append(client)
        return client

    def stop(self) -> None:
        """Stop everything, services first; safe to be called twice."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        for client in self._clients:
            client.close()
        for process in self.processes:
            if process.exit_code is None:
                process.terminate()
        for process in self.processes:
            process.stop(seconds=15)
        self.smtp.stop()
        self.otlp.stop()
        self.redis.stop()
