"""Workers of one's own on a cluster, those of an adopted Celery application too: an image, a `workers:` entry, KEDA."""

from __future__ import annotations

import re
import shutil
import sys
from typing import TYPE_CHECKING

import yaml

from devstack.waiting import until

from .cluster import ROOT, run
from .conftest import REGISTRY, push

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = ROOT / "examples"


def build(example: Path, folder: Path, fleet: str) -> list[str]:
    """Build an example's image as its README says; returns the values that install it as this fleet."""
    shutil.copytree(example, folder, ignore=shutil.ignore_patterns("__pycache__", "wheels"))
    run("make", "wheels")
    shutil.copytree(ROOT / "dist" / "wheels", folder / "wheels")
    name = f"{REGISTRY}/{fleet}:1.0.0"
    run("docker", "build", "-t", name, str(folder), seconds=600)
    entry = yaml.safe_load((example / "values.yaml").read_text())
    assert list(entry) == ["workers"], "nothing of the chart but one more worker"
    image = {"registry": REGISTRY, "repository": fleet, "digest": push(name)}
    settings = ",".join(f"workers.{fleet}.image.{key}={value}" for key, value in image.items())
    return ["-f", str(example / "values.yaml"), "--set", settings]


def test_the_example_is_one_more_fleet_from_zero_and_back(scaled, tmp_path, report):
    scaled.upgrade(*build(EXAMPLES / "own-worker", tmp_path / "acme", "acme"))
    try:
        with scaled.client() as client:
            known = client.http.get("/v1/task-types/badge.draw.v1")
            assert known.json()["fleet"] == "acme", known.text
            until(lambda: scaled.replicas("worker-acme") == 0, "the fleet to be at zero", seconds=180)
            branches = [{"task": "badge.draw.v1", "input": {"name": name}} for name in ("Ann", "Bob")]
            steps = [
                {"parallel": branches},
                {"task": "image.thumbnail.v1", "input": {"longest_side": 60}},
                {"task": "files.archive.v1", "input": {}},
            ]
            accepted = client.http.post("/v1/tasks", json={"steps": steps}).raise_for_status().json()
            url = accepted["status_url"]

            def done() -> dict | None:
                task = client.http.get(url).json()
                return task if task["finished_at"] else None

            task = until(done, "the workflow's end", seconds=180)
            assert task["state"] == "SUCCESS", task
            assert len(task["result"]["files"]) == 3
            assert {step["deliveries"] for step in task["steps"]} == {1}
        until(lambda: scaled.replicas("worker-acme") == 0, "the fleet to be at zero again", seconds=180)
        report.add(
            "Elasticity", "a worker of one's own, from zero and back", "a workflow of 4 steps; 0 lost, 0 doubled"
        )
    finally:
        scaled.upgrade()


def test_an_adopted_celery_application_is_one_more_fleet_from_zero_and_back(scaled, tmp_path, report):
    scaled.upgrade(*build(EXAMPLES / "plain-celery", tmp_path / "shop", "shop"))
    redis_url = f"redis://:{scaled.secret('redis', 'redis-password')}@{scaled.address('valkey')}:6379/0"
    environment = {
        "BROKER_URL": f"offload+{redis_url}",
        "RESULT_BACKEND": redis_url,
        "PYTHONPATH": str(tmp_path / "shop"),
    }

    def send(code: str) -> str:
        """Run this where the application's producers would; returns what it prints."""
        imports = "from celery import chain, chord, group\nfrom tasks import *\n"
        return run(sys.executable, "-c", imports + code, environment=environment).strip()

    try:
        until(lambda: scaled.replicas("worker-shop") == 0, "the fleet to be at zero", seconds=180)
        address = "shop-on-a-cluster@example.com"
        chained = send(f"r = chain(add.s(4, 4), add.s(8), send_email.si('{address}', 'Hello')).delay(); print(r.id)")
        joined = "chord((add.s(i, i) for i in range(20)), total.s()).delay().get(timeout=170)"
        assert send(f"print({joined})") == "380"
        with scaled.client() as client:
            task = client.http.get(f"/v1/tasks/{chained}").raise_for_status().json()
            assert (task["kind"], task["state"]) == ("celery", "SUCCESS"), task
            assert [step["deliveries"] for step in task["steps"]] == [1, 1, 1], task
            assert scaled.mails()[address] == 1

            slow = send("print(slow_report.delay(40, 0.5).id)")
            url = f"/v1/tasks/{slow}"
            until(lambda: client.http.get(url).json()["state"] == "STARTED", "the report to be started", seconds=60)
            # The worker that has it ends it first, or gives it back.
            scaled.kubectl("delete", "pods", "-l", "app.kubernetes.io/component=worker-shop", "--wait=false")
            until(lambda: client.http.get(url).json()["state"] == "SUCCESS", "the report's end", seconds=180)
            assert [step["deliveries"] for step in client.http.get(url).json()["steps"]] == [1]
        until(lambda: scaled.replicas("worker-shop") == 0, "the fleet to be at zero again", seconds=180)
        report.add(
            "Elasticity", "an adopted Celery application, from zero and back",
            "a chain of 3, a chord of 20, a task whose pod was deleted; 0 lost, 0 doubled",
        )  # fmt: skip
    finally:
        scaled.upgrade()


def test_the_tutorials_cluster_blocks_work_as_printed(scaled, tmp_path):
    text = (ROOT / "docs" / "tutorial.md").read_text()
    (worker,) = re.findall(r"<<'PY'\n(from collections.*?)\nPY\n", text, re.DOTALL)
    # Beside a clone of this tree, as the first part has left it.
    clone = tmp_path / "offload"
    run("git", "clone", "--quiet", str(ROOT), str(clone))
    run("make", "-C", str(clone), "setup", seconds=600)
    (tmp_path / "words" / "words").mkdir(parents=True)
    (tmp_path / "words" / "words" / "__init__.py").touch()
    (tmp_path / "words" / "words" / "worker.py").write_text(worker)
    blocks = re.findall(r"```sh cluster\n(.*?)```", text, re.DOTALL)
    script = f"cd {clone}\nexport NAMESPACE={scaled.namespace} REGISTRY={REGISTRY}\n" + "\n".join(blocks)
    try:
        shown = run("bash", "-euo", "pipefail", "-c", script, seconds=600)
        assert '"words":6' in shown, shown
        assert '"state":"SUCCESS"' in shown, shown
    finally:
        scaled.upgrade()
