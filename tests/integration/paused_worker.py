"""A real worker that stands still, once, at a chosen point, so that a test can break something exactly there.

``python paused_worker.py image_worker POINT FOLDER``: at POINT the process writes ``FOLDER/reached`` and waits for
``FOLDER/go``. Nothing else about the worker differs.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import time
from pathlib import Path

from billiard.exceptions import SoftTimeLimitExceeded
from celery.worker.request import Request

from celery_leases.transport import LeaseChannel
from offload_worker.backend import RecordBackend

# Deaf to the soft time limit where a test asks for it, as a library that does not return: the hard one ends it.
DEAF_TO = (SoftTimeLimitExceeded,) if "DEAF_TO_SOFT_LIMIT" in os.environ else ()
MODULE, POINT, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])


def pause_at(point: str) -> None:
    """Stand still if this is the point, and the first time."""
    if point != POINT:
        return
    try:
        os.close(os.open(FOLDER / "reached", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    deadline = time.monotonic() + 120
    while not (FOLDER / "go").exists() and time.monotonic() < deadline:
        with contextlib.suppress(*DEAF_TO):
            time.sleep(0.02)


_run, _put = RecordBackend.run, LeaseChannel._put


def run(self, call, what):
    name = {"begin": "before STARTED", "store": "before storing"}.get(what.split()[0], "")
    if what.startswith("store FAILURE"):
        name = "before FAILURE"
    pause_at(name)
    outcome = _run(self, call, what)
    pause_at({"before storing": "after storing", "before FAILURE": "after FAILURE"}.get(name, ""))
    if name == "before STARTED":
        pause_at("in the step")
    return outcome


def put(self, queue, message, **options):
    # Only what a task publishes: the next step, or a retry.
    name = "publish" if message.get("headers", {}).get("task") else ""
    pause_at(f"before {name}")
    _put(self, queue, message, **options)
    pause_at(f"after {name}")


_on_accepted = Request.on_accepted


def on_accepted(self, *args):
    """Tell the test that the pool's parent knows of the run: a child killed before that is nobody's delivery."""
    (FOLDER / "accepted").touch()
    _on_accepted(self, *args)


Request.on_accepted = on_accepted
RecordBackend.run = run
LeaseChannel._put = put
sys.argv = [MODULE, *sys.argv[4:]]
runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
