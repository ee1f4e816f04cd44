"""Tools that people run beside Celery, on celery-leases: Flower, celery-once, celery-singleton.

``python tests/peers/tools.py`` (make peer-tests) fetches them, runs them against a worker, adds what they did to
reports/peer-tests.md, and fails when that is not what its table says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

from devstack.processes import Process, python
from devstack.servers import RedisServer, free_port
from devstack.waiting import until

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "peer-tests.md"
MARK = "<!-- What follows is written by `python tests/peers/tools.py`. -->"
# The latest releases.
NEEDED = ("flower==2.2.0", "celery-once==3.0.1", "celery-singleton==0.3.1")


class Flower:
    """Flower's API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, body: object = None) -> Any:
        """Return what it answers: JSON, or the status of a refusal."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"{self.url}{path}", data, timeout=10) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None


def try_flower(folder: Path, environment: dict[str, str]) -> list[tuple[str, str, object, object]]:
    """Return (tool, what was tried, what should happen, what happened)."""
    from tools_app import add

    port = free_port()
    command = python("celery", "-A", "tools_app", "flower", f"--port={port}", "--address=127.0.0.1")
    process = Process("flower", command, folder / "flower.log", environment | {"FLOWER_UNAUTHENTICATED_API": "true"})
    try:
        flower = Flower(port)
        workers = until(lambda: flower.ask("/api/workers?refresh=1"), "Flower to see the worker", seconds=60)
        sent = add.delay(1, 1)
        found = until(
            lambda: (task := flower.ask(f"/api/task/info/{sent.id}")) and task != 404 and task["state"] == "SUCCESS"
            and task, "Flower to see the task's end", seconds=30,
        )  # fmt: skip
        applied = flower.ask("/api/task/apply/tools_app.add", {"args": [2, 2]})
        delayed = add.apply_async((1, 1), countdown=3600)
        revoked = flower.ask(f"/api/task/revoke/{delayed.id}", {})
        lengths = flower.ask("/api/queues/length")
        queues = [queue["name"] for queue in workers["w@tools"]["active_queues"]]
        return [
            ("Flower", "workers, with their queues", ["work"], queues),
            ("Flower", "a task's events", "SUCCESS", found["state"]),
            ("Flower", "running a task by its API", "4", str(applied["result"])),
            ("Flower", "revoking one", "yes", "yes" if "message" in revoked else str(revoked)),
            ("Flower", "lengths of the queues: refused, as it looks for stock Redis's lists", 404, lengths),
        ]
    finally:
        process.stop()


def try_locks() -> list[tuple[str, str, object, object]]:
    """The two that let a task wait only once: their locks are keys of their own, apart from the broker."""
    from celery_once import AlreadyQueued
    from tools_app import once, single

    first = once.delay(1.0)
    try:
        once.delay(1.0)
        second = "queued twice"
    except AlreadyQueued:
        second = "refused"
    again = until(lambda: first.ready() and once.delay(0.0), "the lock to be given back")
    one, two = single.delay(1.0), single.delay(1.0)
    return [
        ("celery-once", "the same task a second time while the first waits or runs", "refused", second),
        ("celery-once", "and after it", "once", again.get(timeout=20)),
        ("celery-singleton", "the same task a second time: the id of the first", one.id, two.id),
        ("celery-singleton", "its result", "single", two.get(timeout=20)),
    ]


def inside() -> int:
    """Try the tools, in an environment that has them; writes the section and returns how many did otherwise."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        server = RedisServer(folder / "redis").start()
        environment = {"BROKER_URL": server.url, "PYTHONPATH": str(Path(__file__).parent), "C_FORCE_ROOT": "1"}
        os.environ.update(environment)
        command = python("celery", "-A", "tools_app", "worker", "-n", "w@tools", "-c", "2", "-l", "INFO")
        worker = Process("w", command, folder / "w.log", environment)
        try:
            worker.wait_for("ready.")
            rows = [*try_flower(folder, environment), *try_locks()]
        finally:
            worker.kill()
            server.stop()
    lines = [MARK, "", "## Tools beside it", "", "| tool | what was tried | what happened |", "| --- | --- | --- |"]
    lines += [f"| {tool} {version(tool)} | {tried} | {happened} |" for tool, tried, _, happened in rows]
    lines += [
        "",
        "celery-batches 0.11 asks for a Celery before 5.7, and for prefetching. celery-exporter is not in the",
        "registry: that it sees the events is tested by what it does (libs/celery-leases/tests/test_uses.py).",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    REPORT.write_text(REPORT.read_text().partition(MARK)[0] + text)
    return sum(wanted != happened for _, _, wanted, happened in rows)


def main() -> int:
    """Run this file again with the tools installed beside the locked packages."""
    extra = [word for requirement in NEEDED for word in ("--with", requirement)]
    uv = [os.environ.get("UV", "uv"), "run", "--quiet", "--frozen", "--project", str(ROOT), *extra]
    return subprocess.run([*uv, "python", __file__, "inside"], check=False).returncode


if __name__ == "__main__":
    sys.exit(inside() if sys.argv[1:] == ["inside"] else main())
