"""The commands that we print: those of the README, and the demo itself."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devstack.processes import Process, python
from devstack.waiting import until

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def needs(program: str) -> None:
    if shutil.which(program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is missing")
        pytest.skip(f"{program} is missing")


def test_the_readmes_targets_are_there():
    needs("make")
    (block,) = [block for block in BLOCKS if block.startswith("make")]
    for line in block.splitlines():
        target = line.split("#")[0].split()[1]
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False).returncode == 0
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in targets:
        assert re.search(rf"^{target} +\w", listed, re.MULTILINE), target


def test_the_readmes_requests_work_as_printed(offload):
    needs("curl")
    (block,) = [block for block in BLOCKS if "curl" in block]
    offload.start_all()
    environment = os.environ | {"OFFLOAD": offload.url}
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr + run.stdout
    until(lambda: offload.subjects("ann@example.com") == ["Your images are ready"], "the photo's mail")
    until(lambda: offload.subjects("bob@example.com") == ["Welcome, Bob"], "the welcome mail")
    assert '"state":"REVOKED"' in run.stdout


def start(folder: Path, command: str) -> Process:
    folder.mkdir(exist_ok=True)
    program = python("devstack", command)
    return Process(command, ["env", f"--chdir={folder}", *program], folder / f"{command}.log", {})


def test_the_demo_shows_all_of_it(tmp_path):
    demo = start(tmp_path, "demo")
    until(lambda: demo.exit_code is not None, "the demo to end", seconds=120)
    assert demo.exit_code == 0, demo.output()
    shown = demo.output()
    for part in (
        "All of it happened",
        "image.not_an_image",
        "run/mail.notify.v1",
        "Your images are ready",
        "own badges",
    ):
        assert part in shown
    results = {path.name for path in (tmp_path / "var" / "demo" / "results").iterdir()}
    assert {"resize.jpg", "thumbnail.jpg", "report.pdf", "invoice.pdf", "archive.zip", "mail-1.eml"} <= results
    assert left_running(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_nothing_running(tmp_path, number):
    demo = start(tmp_path, "demo")
    demo.wait_for("Gateway: ")
    demo.send(number)
    until(lambda: demo.exit_code is not None, "the demo to end", seconds=60)
    assert demo.exit_code == 130
    assert left_running(tmp_path) == []


def test_up_stays_until_down(tmp_path):
    up = start(tmp_path, "up")
    up.wait_for("Ctrl-C or `make down` stops everything.")
    url = re.search(r"export OFFLOAD=(\S+)", up.output())[1]
    assert subprocess.run(["curl", "-sf", f"{url}/readyz"], capture_output=True, check=False).returncode == 0
    down = [sys.executable, "-m", "devstack", "down"]
    assert subprocess.run(down, cwd=tmp_path, check=False).returncode == 0
    until(lambda: up.exit_code is not None, "`up` to end")
    assert left_running(tmp_path) == []


def test_the_tutorial_works_as_printed(tmp_path):
    """Its blocks, one after the other in one shell; those for a cluster run there."""
    needs("curl")
    clone = tmp_path / "offload"
    clone.mkdir()
    (clone / ".venv").symlink_to(ROOT / ".venv")
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    up = start(clone, "up")
    up.wait_for("Ctrl-C or `make down` stops everything.")
    script = "set -m\n" + "\n".join(blocks)
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=clone, capture_output=True, text=True, check=False, timeout=150
    )
    log = tmp_path / "words" / "worker.log"
    assert run.returncode == 0, run.stdout + run.stderr + (log.read_text() if log.exists() else "")
    for shown in ("2 passed", '"words":6,"most_common":"to"', '"field":"/input/text"', '"state":"SUCCESS"'):
        assert shown in run.stdout, run.stdout
    mails = clone / "var" / "up" / "mails.jsonl"
    until(lambda: "you@example.com" in mails.read_text(), "the mail")
    assert up.stop() == 130
    assert left_running(clone) == []


def left_running(folder: Path) -> list[str]:
    """Return the processes that belong to a stack in this folder: their environment or command names it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if str(folder / "var").encode() in text:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
