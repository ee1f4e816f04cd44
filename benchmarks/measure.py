"""Measuring two or more sides in turn, and telling their ratio."""

from __future__ import annotations

import os
import socket
import statistics
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
console = Console(width=120)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Each side's values over the rounds, the peer first."""

    title: str
    unit: str
    values: dict[str, list[float]]
    more_is_better: bool

    def show(self, aim: str) -> None:
        """Print medians, spreads and ratios to the first side."""
        table = Table(self.title, f"median {self.unit}", "min to max", "ratio", title_justify="left")
        peer = statistics.median(next(iter(self.values.values())))
        for name, values in self.values.items():
            median = statistics.median(values)
            ratio = median / peer if self.more_is_better else peer / median
            table.add_row(name, f"{median:,.4g}", f"{min(values):,.4g} to {max(values):,.4g}", f"{ratio:.2f} x")
        console.print(table)
        console.print(f"aim: {aim}\n")


def in_turn(sides: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Measure each side once a round, so that a machine that slows down slows all of them."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            values[name].append(measure())
    return values


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, its ended children not counted."""
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 -- /proc
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of requests took."""

    requests: int
    seconds: float
    server_cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Requests answered a second."""
        return self.requests / self.seconds

    @property
    def cpu_microseconds(self) -> float:
        """The server's processor time of one request."""
        return self.server_cpu_seconds / self.requests * 1e6


def load(port: int, request: bytes, pid: int, *, requests: int, connections: int) -> Load:
    """Send one request again and again over kept connections, and count what the server spends on it.

    Raises:
        RuntimeError: when an answer is not 2xx.

    """
    errors: list[str] = []

    def send(count: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            buffer = b""
            for _ in range(count):
                connection.sendall(request)
                while b"\r\n\r\n" not in buffer:
                    buffer += _received(connection)
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                while len(buffer) < length:
                    buffer += _received(connection)
                if not head.split()[1].startswith(b"2"):
                    errors.append(head.decode() + buffer[:length].decode())
                    return
                buffer = buffer[length:]

    threads = [threading.Thread(target=send, args=(requests // connections,)) for _ in range(connections)]
    cpu, started = cpu_seconds(pid), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = Load(requests // connections * connections, time.perf_counter() - started, cpu_seconds(pid) - cpu)
    if errors:
        raise RuntimeError(errors[0])
    return result


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise RuntimeError("the server closed the connection")
    return data


def http(method: str, path: str, body: bytes, media_type: str) -> bytes:
    """Return a request as bytes."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
