"""Celery's own integration tests, from its source distribution: on our broker, adopted by Offload, and on stock Redis.

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
ONCE = "sends a task again under the id of one that has run, which a record refuses"
# Why a test fails there alone.
EXPECTED_ADOPTED = {
    "test_canvas.test_chord::test_reapplying_frozen_chord_dispatches_body_again": ONCE,
    "test_canvas.test_chain::test_chord_header_id_duplicated_on_rabbitmq_msg_duplication[redis-group-ids]": (
        "is left out where the broker's URL begins with redis: no message is doubled"
    ),
} | {
    f"test_canvas.test_chord::test_mutable_errback_called_by_chord_from_{place}[errback_{style}_style]": ONCE
    for place in ("chain", "chain_tail", "group")
    for style in ("old", "new")
}
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
        adopted = run(ADOPTED, STOCK, (), folder)
        why = EXPECTED_ADOPTED | explain(worse(stock, leases), folder)
    text = report(stock, leases, adopted, why)
    print(text)
    REPORT.write_text(text)
    unexplained = {*worse(stock, leases), *worse(stock, adopted)} - why.keys()
    if unexplained:
        print(f"fails on celery-leases, or adopted, alone: {sorted(unexplained)}", file=sys.stderr)
    return bool(unexplained)


def worse(stock: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Return the tests that pass on stock Redis alone. What stock expects to fail is skipped there."""
    return [name for name in stock if ours.get(name) == "failed" != stock[name]]


def report(stock: dict[str, str], leases: dict[str, str], adopted: dict[str, str], why: dict[str, str]) -> str:
    """Return the page."""
    lines = [
        "# Celery's own integration tests, on celery-leases, adopted by Offload, and on stock Redis",
        "",
        f"Celery {version('celery')}, kombu {version('kombu')}, the locked Valkey, a run each; by `make peer-tests`.",
        "",
        "| broker | passed | failed | skipped |",
        "| --- | --- | --- | --- |",
    ]
    runs = {"stock": stock, "celery-leases": leases, "adopted": adopted}
    for broker, outcomes in runs.items():
        counts = Counter(outcomes.values())
        lines.append(f"| {broker} | {counts['passed']} | {counts['failed']} | {counts['skipped']} |")
    lines += ["", "## What differs", "", f"| test | {' | '.join(runs)} | why |", "| --- " * (len(runs) + 2) + "|"]
    names = sorted(stock.keys() | leases.keys() | adopted.keys())
    for name in names:
        ended = [outcomes.get(name, "-") for outcomes in runs.values()]
        if len(set(ended)) > 1:
            lines.append(f"| {name} | {' | '.join(ended)} | {why.get(name, '')} |")
    failed = [name for name in names if all(outcomes.get(name) == "failed" for outcomes in runs.values())]
    lines += ["", "## What fails on all", "", *(f"- {name}" for name in failed)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
