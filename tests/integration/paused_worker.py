"""A real worker that stands still, once, at a chosen point, so that a test can break something exactly there.

``python paused_worker.py image_worker POINT FOLDER``: at POINT the process writes ``FOLDER/reached`` and waits for
``FOLDER/go``. Nothing else about the worker differs.

The points: *before STARTED*, *in the step*, *before publish* and *after publish* (of a retry), *before storing* and
*after storing* (a result, and with it the next stage), *before FAILURE*, *after FAILURE*.
"""

from __future__ import annotations

import contextlib
import functools
import os
import runpy
import sys
import time
from pathlib import Path

from billiard.exceptions import SoftTimeLimitExceeded
from celery.worker.request import Request

from celery_leases.transport import LeaseChannel
from offload_worker.backend import RecordBackend
from offload_worker.steps import GatedTask

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


def around(owner: type, name: str, before: str, after: str) -> None:
    """Make fault points of the moments before and after a method."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def with_points(self, *arguments, **options):
        pause_at(before)
        outcome = method(self, *arguments, **options)
        pause_at(after)
        return outcome

    setattr(owner, name, with_points)


around(GatedTask, "before_start", before="before STARTED", after="in the step")
around(RecordBackend, "mark_as_done", before="before storing", after="after storing")
around(RecordBackend, "fail", before="before FAILURE", after="after FAILURE")

_put = LeaseChannel._put


def put(self, queue, message, **options):
    # Only what a task publishes: a retry.
    is_task = bool(message.get("headers", {}).get("task"))
    pause_at("before publish" if is_task else "")
    _put(self, queue, message, **options)
    pause_at("after publish" if is_task else "")


_on_accepted = Request.on_accepted


def on_accepted(self, *args):
    """Tell the test that the pool's parent knows of the run: a child killed before that is nobody's delivery."""
    (FOLDER / "accepted").touch()
    _on_accepted(self, *args)


Request.on_accepted = on_accepted
LeaseChannel._put = put
sys.argv = [MODULE, *sys.argv[4:]]
runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
