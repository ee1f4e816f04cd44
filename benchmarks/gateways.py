"""Accepting and uploading: our gateway beside FastAPI with `delay()` and with `UploadFile`."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from benchmarks.measure import Comparison, Load, http, in_turn, load
from devstack import packages
from devstack.processes import python
from devstack.servers import RedisServer, free_port
from devstack.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from devstack.processes import Process

MAIL = {"to": ["ann@example.com"], "template": "welcome", "context": {"name": "Ann"}}
NO_LIMIT = {"OFFLOAD_QUEUE_LIMIT": "10000000", "OFFLOAD_LOG_LEVEL": "WARNING"}


def accept(folder: Path, before: Mapping[str, Mapping[str, str]], *, telemetry: bool) -> None:
    """Compare accepting a mail, by the server's processor time and by throughput.

    `before` holds the environments of other releases of our gateway, by name.
    """
    with _both(folder, telemetry=telemetry) as (stack, ours, peer, peer_port), contextlib.ExitStack() as others:
        body = json.dumps(MAIL).encode()
        our_request = http("POST", "/v1/emails", body, "application/json")
        peer_request = http("POST", "/emails", body, "application/json")
        loads: dict[str, list[Load]] = defaultdict(list)

        def measure(name: str, port: int, request: bytes, process: Process) -> Callable[[], float]:
            def run() -> float:
                result = load(port, request, process.pid, requests=3000, connections=8)
                loads[name].append(result)
                return result.per_second

            return run

        sides = {"FastAPI + delay()": measure("FastAPI + delay()", peer_port, peer_request, peer)}
        for commit, environment in before.items():
            other = others.enter_context(Stack(folder / commit, NO_LIMIT | dict(environment), telemetry=telemetry))
            name = f"Offload's gateway, {commit}"
            sides[name] = measure(name, other.port, our_request, other.gateway())
        sides["Offload's gateway"] = measure("Offload's gateway", stack.port, our_request, ours)
        for side in sides.values():
            side()  # warm
        loads.clear()
        in_turn(sides)
    words = "telemetry on both" if telemetry else "no telemetry"
    cpu = {side: [one.cpu_microseconds for one in found] for side, found in loads.items()}
    rate = {side: [one.per_second for one in found] for side, found in loads.items()}
    Comparison(f"accept, server CPU ({words})", "µs/request", cpu, more_is_better=False).show("4 x or more")
    Comparison(f"accept, throughput ({words})", "requests/s", rate, more_is_better=True).show("4 x or more")


def upload(folder: Path) -> None:
    """Compare an upload of 3 MB that is hashed and stored."""
    with _both(folder, telemetry=False) as (stack, ours, peer, peer_port):
        data = (b"\xff\xd8" + bytes(range(256)) * 12_000)[:3_000_000]
        part = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
            + data
            + b"\r\n--b--\r\n"
        )
        form = "multipart/form-data; boundary=b"
        raw = http("POST", "/v1/images", data, "image/jpeg")

        def clean() -> None:
            shutil.rmtree(stack.blobs / "uploads", ignore_errors=True)
            for file in (folder / "peer").iterdir():
                file.unlink()

        def measure(port: int, request: bytes, process: Process) -> Callable[[], float]:
            def run() -> float:
                clean()
                return load(port, request, process.pid, requests=120, connections=4).per_second

            return run

        sides = {
            "UploadFile route": measure(peer_port, http("POST", "/images", part, form), peer),
            "Offload, raw body": measure(stack.port, raw, ours),
            "Offload, multipart": measure(stack.port, http("POST", "/v1/images", part, form), ours),
        }
        for side in sides.values():
            side()  # warm
        values = in_turn(sides)
    Comparison("upload of 3 MB, hashed and stored", "uploads/s", values, more_is_better=True).show("2.5 x or more")


class _both:  # noqa: N801 -- used as a context
    """Both gateways, each with a Redis of its own set the same."""

    def __init__(self, folder: Path, *, telemetry: bool) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        # The same collector for both; it takes spans and does not look at them.
        self.stack = Stack(folder / "offload", NO_LIMIT, telemetry=telemetry)
        self.peer_redis = RedisServer(folder / "peer-redis")
        self.folder = folder
        self.telemetry = telemetry

    def __enter__(self) -> tuple[Stack, Process, Process, int]:
        self.stack.__enter__()
        self.peer_redis.start()
        (self.folder / "peer").mkdir(parents=True)
        ours = self.stack.gateway()
        port = free_port()
        from devstack.processes import Process

        # FastAPI's forms need it, and it cannot be installed beside the gateway's parser: both are named `multipart`.
        environment = {"PYTHONPATH": str(packages.wheel("python-multipart==0.0.34"))}
        if self.telemetry:
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = self.stack.otlp.endpoint
        command = python("benchmarks.peer_gateway", str(port), self.peer_redis.url, str(self.folder / "peer"))
        self.peer = Process("peer", command, self.folder / "peer.log", environment)
        self.peer.wait_for_http(f"http://127.0.0.1:{port}/docs")
        time.sleep(0.5)  # let both settle
        return self.stack, ours, self.peer, port

    def __exit__(self, *_: object) -> None:
        self.peer.kill()
        self.peer_redis.stop()
        self.stack.stop()
