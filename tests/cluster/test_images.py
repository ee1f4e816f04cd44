"""The images hold what their service needs, and nothing else."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import time
import uuid
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from devstack.waiting import until

from .cluster import run
from .conftest import REGISTRY, SERVICES

# What only one of the services has.
OWN = {
    "gateway": {"fastapi", "uvicorn", "python-multipart"},
    "image-worker": {"pillow", "reportlab"},
    "mail-worker": {"jinja2"},
    "http-worker": {"httpx2"},
    "housekeeper": set(),
    "beat": set(),
}
LIST = """
import importlib.metadata
for found in importlib.metadata.distributions(path=["/opt/offload/lib/python3.13/site-packages"]):
    print(found.name.lower())
"""


def inside(service: str, *command: str, check: bool = True) -> str:
    """Run a command in a service's image as Kubernetes would: read-only, without privileges."""
    return run(
        "docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",
        f"{REGISTRY}/offload/{service}:test-a", *command, check=check,
    )  # fmt: skip


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_its_services_dependencies_alone(images, away, service):
    found = set(inside(service, "python", "-c", LIST).split())
    exported = run(
        os.environ.get("UV", "uv"), "export", "--frozen", "--no-dev", "--no-hashes", "--no-header", "--no-annotate",
        "--package", f"offload-{service}",
    )  # fmt: skip
    required = [Requirement(line) for line in exported.splitlines() if "==" in line]
    locked = {one.name.lower() for one in required if one.marker is None or one.marker.evaluate()}
    ours = {"celery-leases", "offload-contracts", "offload-core", f"offload-{service}"}
    if service != "gateway":
        ours.add("offload-worker")
    normal = {re.sub(r"[-_.]+", "-", name) for name in found}
    assert normal == {re.sub(r"[-_.]+", "-", name) for name in locked} | ours
    assert bool(normal & {"celery", "kombu", "billiard"}) == (service != "gateway")
    for other, names in OWN.items():
        assert bool(names & normal) == (other == service and bool(names)), (other, names & normal)
    assert ("cronsim" in normal) == (service in {"gateway", "beat"}), "who works out when schedules are due"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_no_build_tools_and_no_privileges(images, service):
    assert inside(service, "id", "-u").strip() == "10001"
    said = inside(
        service,
        "sh",
        "-c",
        "command -v uv pip gcc cc make git curl; ls /src /code 2>&1; touch /opt/offload/x 2>&1",
        check=False,
    )
    assert "/" not in re.sub(r"'/[^']*'", "", said.replace("ls: cannot access", "")), said
    config = json.loads(run("docker", "inspect", f"{REGISTRY}/offload/{service}:test-a"))[0]["Config"]
    assert config["Cmd"] == ["python", "-m", service.replace("-", "_")]
    assert not config.get("Entrypoint")
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"offload-{service}"
    assert labels["org.opencontainers.image.revision"] == "test-a"
    assert {"version", "source", "licenses", "description"} <= {name.rpartition(".")[2] for name in labels}


ENVIRONMENT = {
    "OFFLOAD_REDIS_URL": "redis://127.0.0.1:1/0",
    "OFFLOAD_BLOB_URL": "s3://nowhere",
    "OFFLOAD_LINK_SECRET": "s" * 32,
    "OFFLOAD_DEVELOPMENT_MODE": "true",
    "OFFLOAD_SMTP_HOST": "nowhere",
    "OFFLOAD_MAIL_FROM": "a@example.com",
}


@pytest.mark.parametrize("after_seconds", [0.3, 0.8, 1.5, 4.0])
@pytest.mark.parametrize("service", SERVICES)
def test_process_1_stops_at_once_whenever_it_is_told_to(images, service, after_seconds):
    options = [word for name, value in ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]
    name = f"offload-stop-{uuid.uuid4().hex[:8]}"
    image = f"{REGISTRY}/offload/{service}:test-a"
    run("docker", "run", "--detach", "--name", name, "--read-only", "--tmpfs", "/tmp", *options, image)
    try:
        # The moment is the point: while it imports, while it connects, and later. Before Python has come as far as to
        # listen, which takes a slow machine longer, the kernel keeps the signal from any process 1.
        time.sleep(after_seconds)
        process = json.loads(run("docker", "inspect", name))[0]["State"]["Pid"]
        until(lambda: catches_sigterm(process), "the process to listen", pause_seconds=0.01)
        run("docker", "stop", "--time", "15", name)
        # After that time it would have been killed, with 137.
        state = json.loads(run("docker", "inspect", name))[0]["State"]
        assert state["ExitCode"] == 0, run("docker", "logs", name, check=False)[-2000:]
    finally:
        run("docker", "rm", "--force", name)


def catches_sigterm(process: int) -> bool:
    """Return whether a process has a handler of its own for SIGTERM."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_a_probe_by_a_shell_costs_a_fraction_of_one_by_python(images, report):
    name = f"offload-probe-{uuid.uuid4().hex[:8]}"
    run("docker", "run", "--rm", "--detach", "--name", name, f"{REGISTRY}/offload/mail-worker:test-a", "sleep", "120")
    try:

        def seconds(*command: str) -> float:
            took = []
            for _ in range(7):
                started = time.monotonic()
                run("docker", "exec", name, "sh", "-c", f"for i in 1 2 3 4 5; do {' '.join(command)}; done")
                took.append((time.monotonic() - started) / 5)
            return statistics.median(took)

        nothing = seconds("true")
        shell = seconds("touch /tmp/alive; test $(( $(date +%s) - $(stat -c %Y /tmp/alive) )) -lt 30")
        python = seconds("python -c 'import os,time; assert time.time() - os.stat(\"/tmp/alive\").st_mtime < 30'")
        celery = seconds("python -c 'import celery.bin.celery, celery.app.control'")
    finally:
        run("docker", "kill", name)
    report.add(
        "Probes",
        "one look at the heartbeat file: by a shell, by a bare Python, by one that imports Celery (as `inspect ping`)",
        f"{1000 * (shell - nothing):.0f} ms, {1000 * (python - nothing):.0f} ms, {1000 * (celery - nothing):.0f} ms",
    )  # fmt: skip
