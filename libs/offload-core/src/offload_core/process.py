"""What a process does before anything else; it imports nothing heavy."""

from __future__ import annotations

import signal
import sys


def exit_on_sigterm() -> None:
    """Let SIGTERM end the process with 0 until a service has a handler of its own.

    In a container the service is process 1, for which the kernel drops a signal without a handler: a pod that is
    deleted while its worker still imports would stay until its grace period has ended.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
