"""``python -m devstack``: the demo, and the services for a developer's own machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

from devstack import settings_reference
from devstack.demo import Demo
from devstack.stack import Stack
from devstack.waiting import until

FOLDER = Path("var").absolute()
interrupted = threading.Event()


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="devstack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="run the main job on real input, and show it")
    commands.add_parser("up", help="start all services, and keep them running until Ctrl-C")
    commands.add_parser("down", help="stop what `up` has started")
    commands.add_parser("settings", help="print docs/reference/settings.md")
    command = parser.parse_args(arguments).command
    # SIGTERM stops like Ctrl-C: nothing is left running.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    code = 0
    with contextlib.suppress(KeyboardInterrupt):
        if command == "demo":
            code = Demo(FOLDER / "demo").run()
        elif command == "up":
            code = up(FOLDER / "up")
        elif command == "down":
            code = down(FOLDER / "up")
        else:
            print(settings_reference.render(), end="")
    if interrupted.is_set():
        print("\nstopped", file=sys.stderr)
        return 130
    return code


def _interrupt(*_: object) -> None:
    # Python swallows an exception that falls into a callback or a finalizer: the event says it all the same.
    interrupted.set()
    raise KeyboardInterrupt


def up(folder: Path) -> int:
    """Start everything, print the addresses, and wait for Ctrl-C."""
    stack = Stack(folder)
    pid_file = folder / "pid"
    try:
        with stack:
            pid_file.write_text(str(os.getpid()))
            stack.start_all()
            print(f"gateway   {stack.url}/docs   (development mode: no API key is asked for)")
            print(f"export OFFLOAD={stack.url}")
            print(f"redis     {stack.redis.url}")
            print(f"mail      127.0.0.1:{stack.smtp.port}, received mails: {folder / 'mails.jsonl'}")
            print(f"traces    {stack.otlp.endpoint}")
            print(f"logs      {folder}/*.log")
            own = folder / "environment"
            own.write_text(_exports(stack))
            print(f"own worker: source {own}, then python -m offload_worker MODULE:NAME")
            print("Ctrl-C or `make down` stops everything.", flush=True)
            while all(process.exit_code is None for process in stack.processes):
                if interrupted.wait(0.5):
                    return 130
            ended = [process.name for process in stack.processes if process.exit_code is not None]
            print(f"ended by itself: {', '.join(ended)}; see {folder}/*.log", file=sys.stderr)
            return 1
    finally:
        stack.stop()
        pid_file.unlink(missing_ok=True)


def _exports(stack: Stack) -> str:
    """Return what a worker of one's own, and a client, need to find this stack: lines for a shell."""
    names = ("OFFLOAD_REDIS_URL", "OFFLOAD_BLOB_URL", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED")
    values = {"OFFLOAD": stack.url} | {name: stack.environment[name] for name in names if name in stack.environment}
    return "".join(f"export {name}={value}\n" for name, value in values.items())


def down(folder: Path) -> int:
    """Stop a running `up`, and wait until it has stopped."""
    pid_file = folder / "pid"
    if not pid_file.exists():
        print("nothing is up")
        return 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
    until(lambda: not pid_file.exists(), "everything to stop", seconds=40)
    return 0


if __name__ == "__main__":
    sys.exit(main())
