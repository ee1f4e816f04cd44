"""Celery's own integration tests, from its source distribution, on celery-leases and on stock Redis.

``python tests/peers/celery_suite.py`` (make peer-tests) runs them in turn on one server, prints what differs, writes
reports/peer-tests.md, and fails when anything fails here that does not fail there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

import celery_leases
from devstack import packages
from devstack.servers import RedisServer

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "peer-tests.md"
# What Celery's tests import beside Celery itself, at the versions that its own requirements name.
NEEDED = ("pytest-rerunfailures==16.7", "pytest-subtests", "django", "sqlalchemy", "freezegun")
# Differences that follow from what the broker promises, each with its reason. Anything else fails the run.
EXPECTED: dict[str, str] = {}
# These start servers or containers of their own that have nothing to do with the broker.
LEFT_OUT = ("test_backend.py", "test_cache_backend.py", "test_database_backend.py", "test_security.py")


def run(broker: str, folder: Path) -> dict[str, str]:
    """Run the suite on one broker; returns each test's outcome."""
    source = packages.sdist(f"celery=={version('celery')}")
    overrides = {} if broker == "stock" else dict(celery_leases.SETTINGS)
    (source / "integration-tests-config.json").write_text(json.dumps(overrides))
    server = RedisServer(folder / broker).start()
    report = folder / f"{broker}.xml"
    environment = {
        **os.environ,
        "TEST_BROKER": server.url,
        "TEST_BACKEND": server.url,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(server.port),
        "C_FORCE_ROOT": "1",
    }
    extra = [word for requirement in NEEDED for word in ("--with", requirement)]
    command = [
        os.environ.get("UV", "uv"),
        "run",
        "--quiet",
        "--frozen",
        "--project",
        str(ROOT),
        *extra,
        "pytest",
        "t/integration",
    ]
    command += [
        *(f"--ignore=t/integration/{name}" for name in LEFT_OUT),
        f"--junitxml={report}",
        "-q",
        "-p",
        "no:xdist",
        "-p",
        "celery.contrib.pytest",
        "--timeout=180",
    ]
    command += sys.argv[1:]
    log = ROOT / "var" / f"peer-tests-{broker}.log"
    with log.open("w") as output:
        subprocess.run(command, cwd=source, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    server.stop()
    if not report.exists():
        sys.exit(f"the suite did not run: see {log}")
    return dict(outcome(case) for case in ET.parse(report).iter("testcase"))


def outcome(case: ET.Element) -> tuple[str, str]:
    """Return a test's name and how it ended."""
    name = f"{case.get('classname', '').removeprefix('t.integration.')}::{case.get('name')}"
    for kind in ("failure", "error", "skipped"):
        if case.find(kind) is not None:
            return name, {"failure": "failed", "error": "failed", "skipped": "skipped"}[kind]
    return name, "passed"


def main() -> int:
    """Run both, compare, write."""
    packages.servers()
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        found = {broker: run(broker, Path(folder)) for broker in ("stock", "leases")}
    stock, leases = found["stock"], found["leases"]
    names = sorted(name for name in stock.keys() | leases.keys() if stock.get(name) != leases.get(name))
    worse = [name for name in names if leases.get(name) != "passed"]
    lines = [
        "# Celery's own integration tests, on celery-leases and on stock Redis",
        "",
        f"Celery {version('celery')}, kombu {version('kombu')}, the locked Valkey, one run each.",
        "",
        "| broker | passed | failed | skipped |",
        "| --- | --- | --- | --- |",
    ]
    for broker, outcomes in found.items():
        counts = Counter(outcomes.values())
        lines.append(f"| {broker} | {counts['passed']} | {counts['failed']} | {counts['skipped']} |")
    lines += ["", "## What differs", ""]
    if names:
        lines += ["| test | stock | celery-leases | why |", "| --- | --- | --- | --- |"]
        lines += [f"| {name} | {stock.get(name)} | {leases.get(name)} | {EXPECTED.get(name, '')} |" for name in names]
    else:
        lines.append("Nothing.")
    failed = sorted(name for name in stock if stock[name] == leases.get(name) == "failed")
    lines += ["", "## What fails on both", "", *([f"- {name}" for name in failed] or ["Nothing."])]
    text = "\n".join(lines) + "\n"
    print(text)
    if len(sys.argv) == 1:
        REPORT.write_text(text)
    unexpected = [name for name in worse if name not in EXPECTED]
    if unexpected:
        print(f"fails on celery-leases alone: {unexpected}", file=sys.stderr)
    return bool(unexpected)


if __name__ == "__main__":
    sys.exit(main())
