"""Starts Python programs by forking a process that has imported the libraries already.

Most of what a service costs at its start is the import of Celery, FastAPI and OpenTelemetry; tests start a thousand of
them. A program that is started here has its own session, environment and log, and imports this tree's own modules
itself: `python -m devstack.preloaded SOCKET` serves, and `Forked` is its client.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Libraries of the services, none of which reads at its import what a test's environment says.
LIBRARIES = (
    "celery.app.trace", "celery.apps.beat", "celery.apps.worker", "celery.bin.celery", "celery.concurrency.prefork",
    "celery.concurrency.thread", "celery.worker.consumer", "celery.worker.request", "celery.worker.strategy",
    "kombu.transport.virtual", "redis.asyncio", "pydantic", "pydantic_settings", "fastapi", "fastapi.openapi.docs",
    "uvicorn", "uvicorn.protocols.http.httptools_impl", "uvloop", "httptools", "prometheus_client", "obstore.store",
    "opentelemetry.sdk.trace.export", "opentelemetry.sdk.metrics.export", "opentelemetry.instrumentation.celery",
    "opentelemetry.instrumentation.fastapi", "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter", "PIL.Image", "jsonschema_rs",
)  # fmt: skip
START_SECONDS = 120.0
_LOCK = threading.Lock()
_server: Server | None = None


class Server:
    """The process that is forked, started by the first that needs it. It ends with the process that started it."""

    def __init__(self) -> None:
        """Start it, and wait until it listens."""
        self.owner = os.getpid()
        self.path = Path(tempfile.mkdtemp(prefix="preloaded-")) / "socket"
        self._popen = subprocess.Popen(
            [sys.executable, "-u", "-m", "devstack.preloaded", str(self.path)], stdin=subprocess.PIPE
        )
        deadline = time.monotonic() + START_SECONDS
        while not self.path.exists():
            if self._popen.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the process that is to be forked does not start")
            time.sleep(0.02)
        atexit.register(self._stop)

    def _stop(self) -> None:
        if os.getpid() == self.owner:
            self._popen.communicate()


class Forked:
    """One program, with what the tests use of `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], output: int) -> None:
        """Start it: ``-m MODULE …`` or ``FILE.py …``, with its output to a file's descriptor."""
        global _server  # noqa: PLW0603 -- one for each process
        with _LOCK:
            if _server is None or _server.owner != os.getpid():
                _server = Server()
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
        text = json.dumps(request).encode()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(_server.path))
        socket.send_fds(connection, [len(text).to_bytes(8)], [output])
        connection.sendall(text)
        self._answers = connection.detach()
        self.pid = int(_line(self._answers))
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def __del__(self) -> None:
        """Close the connection of one whose end nobody has waited for."""
        if getattr(self, "returncode", 0) is None:
            os.close(self._answers)

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._wait(0)

    def wait(self, timeout: float) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: when it has not ended in time.

        """
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _wait(self, seconds: float) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._answers], [], [], seconds)[0]:
                # Nothing at all: the server itself has gone, and nobody knows.
                self.returncode = int(_line(self._answers) or -signal.SIGKILL)
                os.close(self._answers)
            return self.returncode


def _line(answers: int) -> bytes:
    """Return what the server has answered: the process id, and later the exit code, a line for each."""
    line = b""
    while not line.endswith(b"\n") and (more := os.read(answers, 1)):
        line += more
    return line


def _serve(path: str) -> dict[str, Any] | None:
    """Fork a child for each request; returns the request in the child, and None when the owner has gone."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    waiting = path + ".new"
    listener.bind(waiting)
    listener.listen(64)
    Path(waiting).rename(path)
    chosen = selectors.DefaultSelector()
    chosen.register(listener, selectors.EVENT_READ, None)
    chosen.register(0, selectors.EVENT_READ, None)
    while True:
        for key, _ in chosen.select():
            if key.fd == 0:
                return None
            if key.fileobj is not listener:
                connection, pid = key.data
                chosen.unregister(key.fileobj)
                os.close(key.fd)
                _, status = os.waitpid(pid, 0)
                with contextlib.suppress(OSError):
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                connection.close()
                continue
            connection, _ = listener.accept()
            head, [output], *_ = socket.recv_fds(connection, 8, 1)
            request: dict[str, Any] = json.loads(_received(connection, int.from_bytes(head)))
            pid = os.fork()
            if pid == 0:
                return request | {"output": output}
            os.close(output)
            connection.sendall(b"%d\n" % pid)
            chosen.register(os.pidfd_open(pid), selectors.EVENT_READ, (connection, pid))


def _received(connection: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        parts += connection.recv(length - len(parts))
    return bytes(parts)


def _become(request: dict[str, Any]) -> None:
    """Be the program that was asked for, as if it had been started."""
    os.setsid()
    os.dup2(request["output"], 1)
    os.dup2(request["output"], 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(3, 4096)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    first, *rest = request["arguments"]
    given = os.environ.get("PYTHONPATH", "")
    sys.path[:1] = [
        str(Path(first).parent) if first != "-m" else request["folder"],
        *(one for one in given.split(os.pathsep) if one),
    ]
    importlib.invalidate_caches()
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    asked = _serve(sys.argv[1])
    if asked is not None:
        _become(asked)
