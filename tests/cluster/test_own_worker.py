"""A worker of one's own on a cluster: its image, one entry under `workers:`, and KEDA from zero."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import yaml

from devstack.waiting import until

from .cluster import ROOT, run
from .conftest import REGISTRY, push

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = ROOT / "examples" / "own-worker"
FLEET = "worker-acme"


def build(folder: Path) -> str:
    """Build the example's image as its README says; returns its digest."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "wheels"))
    run("make", "wheels")
    shutil.copytree(ROOT / "dist" / "wheels", folder / "wheels")
    name = f"{REGISTRY}/acme-worker:1.0.0"
    run("docker", "build", "-t", name, str(folder), seconds=600)
    return push(name)


def test_the_example_is_one_more_fleet_from_zero_and_back(scaled, tmp_path, report):
    digest = build(tmp_path / "acme")
    entry = yaml.safe_load((EXAMPLE / "values.yaml").read_text())
    assert list(entry) == ["workers"], "nothing of the chart but one more worker"
    image = f"workers.acme.image.registry={REGISTRY},workers.acme.image.digest={digest}"
    scaled.upgrade("-f", str(EXAMPLE / "values.yaml"), "--set", image)
    try:
        with scaled.client() as client:
            known = client.http.get("/v1/task-types/badge.draw.v1")
            assert known.json()["fleet"] == "acme", known.text
            until(lambda: scaled.replicas(FLEET) == 0, "the fleet to be at zero", seconds=180)
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
        until(lambda: scaled.replicas(FLEET) == 0, "the fleet to be at zero again", seconds=180)
        report.add(
            "Elasticity", "a worker of one's own, from zero and back", "a workflow of 4 steps; 0 lost, 0 doubled"
        )
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
