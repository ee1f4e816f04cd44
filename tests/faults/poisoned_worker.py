"""A real image worker whose task kills its own process, or the whole worker, when the photo says so.

``python poisoned_worker.py child|worker``: nothing else about the worker differs.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys

from image_worker.sandbox import Sandbox

WHOM = sys.argv[1]
_resize = Sandbox.resize


def resize(self, data, **options):
    if b"POISON" in data:
        if WHOM == "worker":
            os.killpg(os.getpgid(0), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return _resize(self, data, **options)


Sandbox.resize = resize
sys.argv = ["image_worker", *sys.argv[2:]]
runpy.run_module("image_worker", run_name="__main__", alter_sys=True)
