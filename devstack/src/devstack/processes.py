"""Real processes: started in a group of their own, watched, and stopped by signal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx

from devstack import preloaded
from devstack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


# Whether Python programs are forked from a process that has the libraries, which tests set: it is many times as fast.
forks = False


class Process:
    """One started program, with its output in a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Start it; it leads a process group, so that its children can be reached too."""
        self.name = name
        self.log = log
        self._popen: subprocess.Popen[bytes] | preloaded.Forked
        full = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        with log.open("ab") as output:
            if forks and command[0] == sys.executable and (command[1] == "-m" or command[1].endswith(".py")):
                self._popen = preloaded.Forked(command[1:], full, output.fileno())
                return
            self._popen = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=full,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id, which is the id of its group too."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._popen.poll()

    def output(self) -> str:
        """Return all that it has printed."""
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, *, seconds: float = 40.0) -> None:
        """Wait until it has printed `text`.

        Raises:
            RuntimeError: when it ends before.

        """

        def printed() -> bool:
            found = text in self.output()
            if not found and self.exit_code is not None:
                message = (
                    f"{self.name} ended with {self.exit_code} before it printed {text!r}:\n{self.output()[-3000:]}"
                )
                raise RuntimeError(message)
            return found

        until(printed, f"{text!r} from {self.name}", seconds=seconds)

    def wait_for_http(self, url: str, *, seconds: float = 40.0) -> None:
        """Wait until a GET of `url` is answered with 200.

        Raises:
            RuntimeError: when it ends before.

        """

        def answers() -> bool:
            if self.exit_code is not None:
                message = f"{self.name} ended with {self.exit_code}:\n{self.output()[-3000:]}"
                raise RuntimeError(message)
            try:
                return httpx.get(url, timeout=2).status_code == httpx.codes.OK
            except httpx.HTTPError:
                return False

        until(answers, f"{url} of {self.name}", seconds=seconds)

    def terminate(self) -> None:
        """Ask it to stop, and don't wait."""
        self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self._popen.send_signal(number)

    def send_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and all its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End the process and its children at once, as a dying node would."""
        self.send_group(signal.SIGKILL)
        self._popen.wait(10)

    def stop(self, *, seconds: float = 30.0) -> int:
        """Ask it to stop, and end it when it does not in time; returns the exit code."""
        if self.exit_code is None:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(seconds)
        self.kill()
        return int(self._popen.returncode or 0)

    def children(self) -> list[int]:
        """Return the process ids of its children."""
        found = subprocess.run(["pgrep", "-P", str(self.pid)], capture_output=True, text=True, check=False)
        return [int(line) for line in found.stdout.split()]


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, "-m", module, *arguments]
