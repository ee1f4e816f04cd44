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
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import celery_leases
from devstack import packages
from devstack.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "peer-tests.md"
# What Celery's tests import beside Celery itself, at the versions that its own requirements name.
NEEDED = ("pytest-rerunfailures==16.7", "pytest-subtests", "django", "sqlalchemy", "freezegun")
# A difference that follows from what the broker is. Others are explained by a second run, or fail this one.
EXPECTED = {
    "test_inspect.test_Inspect::test_scheduled": "delayed tasks wait in Redis, and not in a worker that could list them"
}
STOCK: dict[str, object] = {}
LEASES = dict(celery_leases.SETTINGS)
SAFE_STOCK = {name: value for name, value in LEASES.items() if name != "broker_transport"}
# The same application by `offload+redis://`.
ADOPTED = "offload"
NO_TOMBSTONES = LEASES | {"broker_transport_options": {"tombstone_seconds": 0}}
# These start servers or containers of their own that have nothing to do with the broker.
LEFT_OUT = ("test_backend.py", "test_cache_backend.py", "test_database_backend.py", "test_security.py")


def run(broker: str, overrides: Mapping[str, object], tests: Sequence[str], folder: Path) -> dict[str, str]:
    """Run the suite, or some of its tests, on one broker; returns each test's outcome."""
    source = packages.sdist(f"celery=={version('celery')}")
    (source / "integration-tests-config.json").write_text(json.dumps(overrides))
    server = RedisServer(folder / broker).start()
    report = folder / f"{broker}.xml"
    environment = {
        **os.environ,
        "TEST_BROKER": f"offload+{server.url}" if broker == ADOPTED else server.url,
        "TEST_BACKEND": server.url,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(server.port),
        "C_FORCE_ROOT": "1",
    }
    extra = [word for requirement in NEEDED for word in ("--with", requirement)]
    uv = [os.environ.get("UV", "uv"), "run", "--quiet", "--frozen", "--project", str(ROOT), *extra]
    ignored = [f"--ignore=t/integration/{name}" for name in LEFT_OUT]
    plugins = ["-p", "no:xdist", "-p", "celery.contrib.pytest"]
    if broker == ADOPTED:
        # What `celery worker` would load: the suite makes its workers itself.
        plugins += ["-p", "offload_worker.adoption.command"]
    command = [*uv, "pytest", *(tests or ["t/integration"]), *ignored, *plugins]
    command += [f"--junitxml={report}", "--quiet", "--timeout=180"]
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


def explain(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Return why tests fail on celery-leases alone, found by running them again; what has no reason is left out."""
    tests = [node(name) for name in names]
    safe = run("stock-safe", SAFE_STOCK, tests, folder)
    twice = run("leases-no-tombstones", NO_TOMBSTONES, tests, folder)
    why = {}
    for name in names:
        if name in EXPECTED:
            why[name] = EXPECTED[name]
        elif safe.get(name) == "failed":
            why[name] = "fails on stock too, once its acknowledgements are as late as they must be to lose nothing"
        elif twice.get(name) == "passed":
            why[name] = "publishes one message twice on purpose; passes with `tombstone_seconds` 0"
    return why


def node(name: str) -> str:
    """Return the id that pytest knows a test by."""
    module, _, rest = name.partition("::")
    file, *classes = module.split(".")
    return "::".join([f"t/integration/{file}.py", *classes, rest])


def main() -> int:
    """Run both, compare, explain, write."""
    packages.servers()
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if sys.argv[1:]:
            why = explain(sys.argv[1:], folder)
            print("\n".join(f"{name}: {why.get(name, 'NOT EXPLAINED')}" for name in sys.argv[1:]))
            return len(why) < len(sys.argv[1:])
        stock, leases = run("stock", STOCK, (), folder), run("leases", LEASES, (), folder)
        worse = [name for name in stock if stock[name] == "passed" and leases.get(name) != "passed"]
        why = explain(worse, folder)
    text = report(stock, leases, why)
    print(text)
    REPORT.write_text(text)
    unexplained = [name for name in worse if name not in why]
    if unexplained:
        print(f"fails on celery-leases alone: {unexplained}", file=sys.stderr)
    return bool(unexplained)


def report(stock: dict[str, str], leases: dict[str, str], why: dict[str, str]) -> str:
    """Return the page."""
    lines = [
        "# Celery's own integration tests, on celery-leases and on stock Redis",
        "",
        f"Celery {version('celery')}, kombu {version('kombu')}, the locked Valkey, a run each; by `make peer-tests`.",
        "",
        "| broker | passed | failed | skipped |",
        "| --- | --- | --- | --- |",
    ]
    for broker, outcomes in (("stock", stock), ("celery-leases", leases)):
        counts = Counter(outcomes.values())
        lines.append(f"| {broker} | {counts['passed']} | {counts['failed']} | {counts['skipped']} |")
    lines += ["", "## What differs", "", "| test | stock | celery-leases | why |", "| --- | --- | --- | --- |"]
    differ = sorted(name for name in stock.keys() | leases.keys() if stock.get(name) != leases.get(name))
    lines += [f"| {name} | {stock.get(name)} | {leases.get(name)} | {why.get(name, '')} |" for name in differ]
    failed = sorted(name for name in stock if stock[name] == leases.get(name) == "failed")
    lines += ["", "## What fails on both", "", *(f"- {name}" for name in failed)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
