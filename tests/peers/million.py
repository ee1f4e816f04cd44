"""A million waiting messages: what each takes of Redis's memory, and how long the broker's scripts take then.

``python tests/peers/million.py`` adds its figures to reports/peer-tests.md, after those of Celery's own tests.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery

import celery_leases
from celery_leases import keys, scripts
from celery_leases.options import Options
from celery_leases.sweep import Sweeper
from devstack.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

REPORT = Path(__file__).parents[2] / "reports" / "peer-tests.md"
MARK = "<!-- What follows is written by `python tests/peers/million.py`. -->\n"
MILLION = 1_000_000
CALLS = 2_000
P, Q = "leases:", "work"
BASE = P + Q


def message(client: redis.Redis, url: str) -> str:
    """Return a message as Celery publishes it, for a task with a mail's address."""
    app = Celery("million", broker=url, set_as_current=False)
    app.conf.update(celery_leases.SETTINGS, task_default_queue=Q)
    app.send_task("shop.tasks.send_welcome_mail", args=("ann@example.com", 42))
    text: str = client.hvals(keys.key(P, Q, keys.LIVE))[0].decode()
    client.flushall()
    return text


def fill(client: redis.Redis, text: str, count: int, first: int = 0) -> None:
    """Publish so many messages."""
    script = scripts.PUBLISH
    client.script_load(script.text)
    pipe = client.pipeline(transaction=False)
    for number in range(first, first + count):
        pipe.execute_command(*script.command([], [P, Q, tag(number), text, 0, 0]))
        if number % 10_000 == 9_999:
            pipe.execute()
    pipe.execute()


def tag(number: int) -> str:
    """Return a tag of a task id's usual length."""
    return f"{number:032x}-xxx:0:0"


def microseconds(client: redis.Redis, act: Callable[[int], object], calls: int = CALLS) -> float:
    """Return what one call takes Redis itself."""
    act(0)
    client.config_resetstat()
    for number in range(1, calls + 1):
        act(number)
    stats = client.info("commandstats")
    return max(stats.get(f"cmdstat_{name}", {"usec_per_call": 0})["usec_per_call"] for name in ("evalsha", "eval"))


def times(client: redis.Redis, text: str, base: int) -> dict[str, float]:
    """Return the microseconds of each script at the depth that there is."""
    held: list[tuple[str, int]] = []
    sweeper = Sweeper(client, Options(key_prefix=P, on_dead_letter=None))

    def publish(number: int) -> None:
        scripts.PUBLISH(client, [], [P, Q, tag(base + number), text, 0, 0])

    def pop(_: int) -> None:
        _, name, _, delivery = scripts.POP(client, [BASE], ["me", 60_000, "lease"])
        held.append((name.decode(), int(delivery)))

    def renew(_: int) -> None:
        leases = [word for name, delivery in held[:8] for word in (Q, name, delivery)]
        scripts.RENEW(client, [], [P, "me", 60_000, *leases])

    def settle(_: int) -> None:
        name, delivery = held.pop()
        scripts.SETTLE(client, [BASE], [name, "me", delivery, 600_000, 0])

    return {
        "publish": microseconds(client, publish),
        "pop": microseconds(client, pop),
        "renew (8 leases)": microseconds(client, renew),
        "settle, with a tombstone": microseconds(client, settle, CALLS - 8),
        "sweep, nothing due": microseconds(client, lambda _: sweeper.sweep(), 200),
    }


def main() -> int:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), options=["--appendonly", "no"]).start()
        client = server.client()
        text = message(client, server.url)
        empty = client.info("memory")["used_memory"]
        fill(client, text, 1_000)
        shallow = times(client, text, 2 * MILLION)
        client.flushall()
        fill(client, text, MILLION)
        ours = (client.info("memory")["used_memory"] - empty) / MILLION
        deep = times(client, text, 2 * MILLION)
        client.flushall()
        pipe = client.pipeline(transaction=False)
        for number in range(MILLION):
            pipe.lpush("celery", text)
            if number % 10_000 == 9_999:
                pipe.execute()
        stock = (client.info("memory")["used_memory"] - empty) / MILLION
        server.stop()
    lines = [
        MARK,
        "## A million waiting messages",
        "",
        f"A message of {len(text):,} bytes takes {ours:,.0f} bytes of Redis with leases, {stock:,.0f} with stock",
        f"Redis, {ours / stock:.2f} x: its tag stands in the list, and beside the message in a hash.",
        "",
        "| script | microseconds of Redis at 1,000 waiting | at 1,000,000 |",
        "| --- | --- | --- |",
        *(f"| {name} | {shallow[name]:.1f} | {deep[name]:.1f} |" for name in deep),
        "",
    ]
    print("\n".join(lines))
    REPORT.write_text(REPORT.read_text().partition(MARK)[0] + "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
