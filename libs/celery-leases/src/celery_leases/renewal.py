"""Renewing leases: by the worker, and by a process that stands in for it while it cannot.

In the pools `threads` and `solo` tasks run in the worker's own process. One that keeps the interpreter's lock (a
regular expression that backtracks, a call into C) stops the thread that renews the leases too, and a healthy task would
be taken for a dead worker's. The stand-in has an interpreter of its own. The worker tells it what it holds, and so that
it lives; when the worker has said nothing for half a lease, the stand-in renews, as long as the worker's process exists
and is not stopped, and for at most `stall_seconds`.

``python -m celery_leases.renewal`` is run by the worker alone.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import redis
from kombu import Connection
from redis.exceptions import RedisError

from celery_leases import scripts
from celery_leases.sweep import milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from celery_leases.options import Options

logger = logging.getLogger("celery_leases.renewal")

# Leases that one script renews: about a millisecond of Redis's time.
RENEWALS: Final = 200

# What a stand-in may leave unread before it counts as hung: thousands of leases.
UNREAD_BYTES: Final = 1 << 20


class Delivery(NamedTuple):
    """What names a lease in Redis."""

    queue: str
    message_key: str
    number: int


def renew(client: redis.Redis, options: Options, owner: str, held: Iterable[Delivery]) -> Iterator[Delivery]:
    """Renew leases and confirm that they are held; yield those that are not this owner's any more."""
    for some in batched(held, RENEWALS):
        of_each: list[scripts.Argument] = [part for delivery in some for part in delivery]
        arguments = [options.key_prefix, owner, milliseconds(options.lease_seconds), *of_each]
        for position in scripts.RENEW(client, [], arguments):
            yield some[int(position) - 1]


def bounded_client(pool: redis.ConnectionPool, options: Options) -> redis.Redis:
    """Return a client that is bounded in time: a silent Redis must not stop renewals for longer than a lease."""
    limit = max(options.lease_seconds / 3, 0.5)
    pool.connection_kwargs.update(socket_timeout=limit, socket_connect_timeout=limit)
    return redis.Redis(connection_pool=pool)


class StandIn:
    """The process that stands in, seen from the worker. Not safe for several threads at once."""

    def __init__(self, connection: Any, options: Options, owner: str) -> None:  # noqa: ANN401 -- kombu's connection is untyped
        """Note the kombu connection that names the broker; nothing is started before the first word."""
        self._connection = connection
        # A handler of dead letters is not needed there, and may be one that cannot be sent.
        self._options = replace(options, on_dead_letter=None)
        self._owner = owner
        self._process: subprocess.Popen[bytes] | None = None
        self._unsent = b""
        self._is_impossible = False

    def add(self, delivery: Delivery) -> bool:
        """Tell at once what is held from now on: its task may take the interpreter's lock in a moment.

        Returns False when there is no process to tell.
        """
        if self._process is None:
            return False
        self._send(self._process, ["add", [delivery]])
        return True

    def tell(self, held: Sequence[Delivery]) -> None:
        """Tell all that is held, and so that the worker lives. Starts the process when there is none."""
        if self._process is None and not self._is_impossible:
            self._start()
        if self._process is not None:
            self._send(self._process, ["all", held])

    def _start(self) -> None:
        info = self._connection.info()
        info["transport_options"] = {**info["transport_options"], "on_dead_letter": None}
        try:
            text = pickle.dumps((info, self._options, self._owner))
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "celery_leases.renewal"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        except (AttributeError, OSError, TypeError, pickle.PicklingError) as error:
            self._is_impossible = True
            logger.warning("no process can stand in for this one to renew leases: %r", error)
            return
        self._unsent = base64.b64encode(text) + b"\n"

    def _send(self, process: subprocess.Popen[bytes], message: list[object]) -> None:
        pipe = process.stdin.fileno()  # type: ignore[union-attr]  # it was asked for
        os.set_blocking(pipe, False)
        # The monotonic clock is the machine's: how long ago this was said is known even to a process that starts late.
        self._unsent += json.dumps([*message, time.monotonic()]).encode() + b"\n"
        is_gone = False
        try:
            self._unsent = self._unsent[os.write(pipe, self._unsent) :]
        except BlockingIOError:
            is_gone = len(self._unsent) > UNREAD_BYTES
        except OSError:
            is_gone = True
        if is_gone:
            logger.warning("the process that stands in for this one to renew leases is gone or hung: it starts again")
            process.kill()
            process.wait()
            self._process = None  # the next word starts another one


def main() -> None:
    """Renew the parent's leases while it is silent; return when it is gone."""
    # The worker stops by these while it finishes what it holds; this process ends when the worker does.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    parent = os.getppid()
    info, options, owner = pickle.loads(base64.b64decode(sys.stdin.buffer.readline()))  # noqa: S301 -- from our parent
    logger.info("process %d: renews the leases of process %d while it is silent", os.getpid(), parent)
    held: dict[Delivery, None] = {}
    heard_at, renewed_at = time.monotonic(), float("-inf")

    def listen() -> None:
        nonlocal held, heard_at
        for line in sys.stdin.buffer:
            what, deliveries, heard_at = json.loads(line)
            added = dict.fromkeys(Delivery(*delivery) for delivery in deliveries)
            held = added if what == "all" else held | added
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    client: redis.Redis | None = None
    while os.getppid() == parent:
        time.sleep(options.lease_seconds / 10)
        now = time.monotonic()
        silent_seconds = now - heard_at
        is_due = silent_seconds > options.lease_seconds / 2 and now - renewed_at > options.lease_seconds / 3
        if not held or not is_due or silent_seconds > options.stall_seconds or _is_stopped(parent):
            continue
        logger.warning("process %d has said nothing for %.1f s: its leases are renewed", parent, silent_seconds)
        renewed_at = now
        try:
            client = client or bounded_client(Connection(**info).channel()._get_pool(), options)  # noqa: SLF001
            for lost in renew(client, options, owner, list(held)):
                logger.warning("lost: the lease of delivery %d of %s has ended", lost.number, lost.message_key)
                held.pop(lost, None)
        except (RedisError, OSError) as error:
            logger.warning("leases cannot be renewed now: %s", error)


def _is_stopped(process: int) -> bool:
    """Return whether a process was stopped by a signal, where that can be seen (Linux)."""
    try:
        # The state stands behind the name, which is in parentheses and may have any character.
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in {"T", "t"}
    except OSError:
        return False


if __name__ == "__main__":
    main()
