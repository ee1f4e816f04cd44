"""Django's own tests of django.tasks, from its source distribution, on the backend of examples/django.

``python tests/peers/django_tasks.py`` (make peer-tests) adds what they did to reports/peer-tests.md, and fails when a
test fails that is not expected to. They were written for Django's two backends: one keeps tasks in a list, and one runs
them at once. So the backend is given what the first has beside the interface, and to stand for the second it waits.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from devstack import packages
from devstack.processes import Process, python
from devstack.stack import Stack
from devstack.waiting import until

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "peer-tests.md"
MARK = "<!-- What follows is written by `python tests/peers/django_tasks.py`. -->"
MODULES = ("test_tasks", "test_dummy_backend", "test_immediate_backend")
PRIORITIES = "priorities are not supported"
OWN_LIST = "changes a task in the list of the dummy backend"
LOGS = "reads the log of a run in its own process"
RESULTS = "asks for the refusal of a backend without results, or without `run_after`"
AT_ONCE = "a task enqueued in a transaction is not run before its commit: that is what an outbox is for"
INTERRUPT = "a `KeyboardInterrupt` in a task is the worker's, and not the caller's"
# Why a test cannot pass, by its name.
EXPECTED = {
    "test_using_priority": PRIORITIES,
    "test_chained_using": PRIORITIES,
    "test_invalid_priority": PRIORITIES,
    "test_refresh_result": OWN_LIST,
    "test_refresh_result_async": OWN_LIST,
    "test_catches_exception": LOGS,
    "test_complex_exception": LOGS,
    "test_complex_return_value": LOGS,
    "test_enqueue_logs": LOGS,
    "test_failed_logs": LOGS,
    "test_task_error_invalid_exception": LOGS,
    "test_task_error_unknown_module": LOGS,
    "test_cannot_get_result": RESULTS,
    "test_cannot_refresh_result": RESULTS,
    "test_cannot_pass_run_after": RESULTS,
    "test_doesnt_wait_until_transaction_commit_by_default": AT_ONCE,
    "test_throws_keyboard_interrupt": INTERRUPT,
}
ADAPTER = '''
"""The backend with what Django's tests ask of its own two."""

import time

from offload_outbox import outbox
from offload_outbox.backend import OffloadBackend
from offload_outbox.client import connect
from offload_outbox.models import Entry


class Listed(OffloadBackend):
    """Has what DummyBackend has beside the interface."""

    def clear(self):
        Entry.objects.all().delete()

    @property
    def results(self):
        return [self.get_result(str(entry.pk)) for entry in Entry.objects.order_by("created_at")]


class Waiting(OffloadBackend):
    """Is like ImmediateBackend for who calls it."""

    def enqueue(self, task, args, kwargs):
        result = super().enqueue(task, args, kwargs)
        deadline = time.monotonic() + 60
        with connect() as client:
            outbox.relay(client)
        while not result.is_finished:
            if time.monotonic() > deadline:
                raise TimeoutError(result.id)
            time.sleep(0.02)
            result.refresh()
        return result
'''
SETTINGS = """
from shop.settings import *

INSTALLED_APPS = [*INSTALLED_APPS, "tasks"]
DATABASES["default"]["TEST"] = {"NAME": DATABASES["default"]["NAME"]}
TASKS = {"default": {"BACKEND": "adapter.Waiting", "QUEUES": []}}
LOGGING_CONFIG = None
"""


def project(folder: Path) -> None:
    """Put the example, Django's tests and the adapter into one folder."""
    shutil.copytree(ROOT / "examples" / "django", folder, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3"))
    shutil.copytree(packages.sdist(f"django=={version('django')}") / "tests" / "tasks", folder / "tasks")
    (folder / "adapter.py").write_text(ADAPTER)
    (folder / "peer_settings.py").write_text(SETTINGS)
    for name in MODULES:
        path = folder / "tasks" / f"{name}.py"
        text = path.read_text()
        for kind, ours in (("Dummy", "Listed"), ("Immediate", "Waiting")):
            text = text.replace(f"django.tasks.backends.{kind.lower()}.{kind}Backend", f"adapter.{ours}")
            text = text.replace(
                f"from django.tasks.backends.{kind.lower()} import {kind}Backend",
                f"from adapter import {ours} as {kind}Backend",
            )
        # Those may use no database.
        path.write_text(text.replace("SimpleTestCase", "TransactionTestCase").replace("    available_apps = []\n", ""))


def run(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """Run the tests; returns each one's outcome, by its module and name."""
    tests = [f"tasks.{name}" for name in MODULES]
    command = [sys.executable, "-m", "django", "test", *tests, "--verbosity", "2", "--noinput"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    (ROOT / "var" / "peer-tests-django.log").write_text(done.stdout + done.stderr)
    ran = re.findall(r"^(test_\w+) \(tasks\.(\w+)", done.stderr, re.MULTILINE)
    failed = re.findall(r"^(?:FAIL|ERROR): (test_\w+) \(tasks\.(\w+)", done.stderr, re.MULTILINE)
    outcomes = {f"{module}.{name}": "passed" for name, module in ran}
    return outcomes | {f"{module}.{name}": "failed" for name, module in failed}


def main() -> int:
    """Run them, and write what they did."""
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, Stack(Path(temporary) / "stack", telemetry=False) as stack:
        folder = Path(temporary) / "project"
        project(folder)
        own = {
            "OFFLOAD": stack.url,
            "DJANGO_SETTINGS_MODULE": "peer_settings",
            "DJANGO_ALLOW_ASYNC_UNSAFE": "true",
            "PYTHONPATH": str(folder),
            "SHOP_DATABASE": str(folder / "peer.sqlite3"),
        }
        stack.gateway()
        settings = stack.environment | own | {"OFFLOAD_CONCURRENCY": "2"}
        worker = Process(
            "worker", python("offload_worker", "offload_outbox.worker:worker"), folder / "worker.log", settings
        )
        stack.processes.append(worker)
        client = stack.client()
        until(lambda: client.get("/v1/task-types/django.run.v1").status_code == 200, "the task type")
        outcomes = run(folder, os.environ | own)
    failed = {name for name, outcome in outcomes.items() if outcome == "failed"}
    lines = [
        "",
        "## Django's own tests of django.tasks, on the backend of examples/django",
        "",
        f"Django {version('django')}: {len(outcomes) - len(failed)} of {len(outcomes)} pass. The others do not apply:",
        "",
        "| test | why |",
        "| --- | --- |",
        *(f"| {name} | {EXPECTED.get(name.partition('.')[2], 'NOT EXPECTED')} |" for name in sorted(failed)),
    ]
    text = "\n".join([MARK, *lines, ""])
    print(text)
    REPORT.write_text(REPORT.read_text().partition(MARK)[0].rstrip("\n") + "\n" + text)
    unexpected = sorted(name for name in failed if name.partition(".")[2] not in EXPECTED)
    if unexpected or not outcomes:
        print(f"fails although it should pass: {unexpected or 'everything'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
