"""The example of a worker of one's own: used from outside of this tree, in which nothing knows of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devstack.waiting import until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own-worker"
# What says that there is an example, and what tries it.
MAY_NAME_IT = ("examples/own-worker/", "tests/", "docs/", "CHANGELOG.md", "devstack/src/devstack/demo.py")


@pytest.fixture
def repository(tmp_path):
    """The example as a repository of its own: a copy elsewhere."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "acme", ignore=shutil.ignore_patterns("__pycache__")))


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "OFFLOAD"))}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def tree() -> str:
    """Every file of this tree that differs from what is committed, and how."""
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_its_own_tests_and_its_check_pass(repository):
    tested = run(repository, "pytest", "-q", "-p", "no:cacheprovider")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    checked = run(repository / "src", "offload_worker", "acme.worker:worker", "--check")
    assert checked.returncode == 0, checked.stderr
    names = [entry["name"] for entry in json.loads(checked.stdout)]
    assert names == ["invoice.render.v1", "badge.draw.v1", "files.archive.v1"]


def test_it_runs_as_one_more_fleet_and_needs_no_edit_of_this_tree(offload, repository):
    before = tree()
    offload.gateway()
    offload.worker("image_worker")
    offload.worker("mail_worker")
    own = offload.own_worker("acme.worker:worker", repository / "src")
    client = offload.client()
    until(lambda: client.get("/v1/task-types/invoice.render.v1").status_code == 200, "its task types")
    invoice = {"number": "2026-1", "customer": "Ann", "lines": [{"text": "Paper", "cents": 1}]}
    steps = [
        {"task": "invoice.render.v1", "input": invoice},
        {"task": "mail.notify.v1", "input": {"to": "ann@example.com"}},
    ]
    badges = [
        {"parallel": [{"task": "badge.draw.v1", "input": {"name": name}} for name in ("Ann", "Bob")]},
        {"task": "image.thumbnail.v1", "input": {"longest_side": 50}},
        {"task": "files.archive.v1", "input": {}},
    ]
    tasks = [
        offload.wait(client, client.post("/v1/tasks", json={"steps": one}).json()["task_id"]) for one in (steps, badges)
    ]
    assert [task["state"] for task in tasks] == ["SUCCESS", "SUCCESS"], tasks
    assert [one["step"] for one in tasks[1]["links"]["outputs"]] == ["badge", "badge", "thumbnail", "archive"]
    assert len(tasks[1]["result"]["files"]) == 3
    until(lambda: offload.subjects("ann@example.com") == ["Your files are ready"], "the mail")
    for output in (one for task in tasks for one in task["links"]["outputs"]):
        assert len(client.get(output["href"]).content) == output["size_bytes"]
    # One trace, through Offload's workers and one's own.
    services = {span.service for span in until(lambda: whole_trace(offload, tasks[1]), "the trace")}
    assert {"gateway", "acme-worker", "image-worker"} <= services
    assert own.stop() == 0
    assert tree() == before


def whole_trace(offload, task: dict) -> list | None:
    spans = offload.otlp.trace(task["trace_id"])
    return spans if sum(span.name.startswith("run/") for span in spans) == len(task["steps"]) else None


def test_nothing_outside_of_its_folder_knows_of_it():
    """If the example needed one edit elsewhere, the door would not be open."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = [name for name in listed if not name.startswith(MAY_NAME_IT) and not name.endswith("README.md")]
    words = (b"own-worker", b"badge.draw", b"files.archive")
    assert [name for name in files if any(word in (ROOT / name).read_bytes() for word in words)] == []
