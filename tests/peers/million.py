"""A million waiting messages: what each takes of Redis's memory, and how long the broker's scripts take then.

Beside it the worst that may have to be cleared away at once, by the scripts that do it.

``python tests/peers/million.py`` adds its figures to reports/peer-tests.md, after those of Celery's own tests.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
        pipe.execute_command(*script.command([], [P, Q, message_key(number), text, 0, 0]))
        if number % 10_000 == 9_999:
            pipe.execute()
    pipe.execute()


def message_key(number: int) -> str:
    """Return a message key of a task id's usual length."""
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
        scripts.PUBLISH(client, [], [P, Q, message_key(base + number), text, 0, 0])

    def pop(_: int) -> None:
        _, name, _, delivery, _ = scripts.POP(client, [BASE], [P, "me", 60_000, "poller", 1, "lease"])
        held.append((name.decode(), int(delivery)))

    def renew(_: int) -> None:
        leases = [word for name, delivery in held[:8] for word in (Q, name, delivery)]
        scripts.RENEW(client, [], [P, "me", 60_000, *leases])

    def settle(_: int) -> None:
        name, delivery = held.pop()
        scripts.SETTLE(client, [], [P, Q, name, "me", delivery, 600_000, 0])

    return {
        "publish": microseconds(client, publish),
        "pop": microseconds(client, pop),
        "renew (8 leases)": microseconds(client, renew),
        "settle, with a tombstone": microseconds(client, settle, CALLS - 8),
        "sweep, nothing due": microseconds(client, lambda _: sweep(client, sweeper), 200),
    }


def sweep(client: redis.Redis, sweeper: Sweeper) -> None:
    """Sweep now: as if it were this process's turn, and the last sweep had been a moment ago."""
    client.delete(f"{P}sweep-turn")
    client.hset(f"{P}sweep", mapping={"swept_at": round(time.time() * 1000), "rests_until": 0})
    sweeper.sweep()


class Scripts(NamedTuple):
    """The scripts that something took: milliseconds of Redis of 99 in 100 and of the slowest, and how many there were.

    Redis measures by the clock. On a machine that does other things the slowest one says what those took.
    """

    most_ms: float
    slowest_ms: float
    count: int


def measured(client: redis.Redis, act: Callable[[], object]) -> Scripts:
    """Return the scripts that `act` runs."""
    client.config_set("slowlog-log-slower-than", 0)
    client.config_set("slowlog-max-len", 1_000_000)
    client.slowlog_reset()
    act()
    client.config_set("slowlog-log-slower-than", -1)
    entries: list[Any] = client.slowlog_get(1_000_000)
    durations = sorted(
        entry["duration"] / 1000 for entry in entries if entry["command"].startswith((b"EVALSHA", b"EVAL "))
    )
    return Scripts(durations[len(durations) * 99 // 100], durations[-1], len(durations))


def storms(client: redis.Redis) -> dict[str, Scripts]:
    """Return the scripts of the worst that may have to be cleared away."""
    sweeper = Sweeper(client, Options(key_prefix=P, on_dead_letter=None))
    found: dict[str, Scripts] = {}
    for count in (5_000, 20_000):
        client.flushall()
        fill(client, "{}", count)
        pipe = client.pipeline(transaction=False)
        for number in range(count):
            pipe.execute_command(
                *scripts.POP.command([BASE], [P, f"owner {number}", 1, "poller", 1, "lease"], full=True)
            )
        pipe.execute()
        found[f"{count:,} leases of as many dead workers given back"] = measured(client, lambda: sweep(client, sweeper))
    client.flushall()
    pipe = client.pipeline(transaction=False)
    for first in range(0, MILLION, 10_000):
        pipe.zadd(keys.key(P, Q, keys.SETTLED), {message_key(number): 1 for number in range(first, first + 10_000)})
        pipe.lpush(keys.key(P, Q, keys.WAITING), *(message_key(number) for number in range(first, first + 10_000)))
    pipe.sadd(keys.registry(P), Q)
    pipe.execute()

    def pop_all() -> None:
        while scripts.POP(client, [BASE], [P, "me", 60_000, "poller", 1, "lease"]) is not None:
            pass

    found["a pop behind 1,000,000 cancelled messages"] = measured(client, pop_all)
    found["1,000,000 tombstones at their end"] = measured(client, lambda: sweep(client, sweeper))
    client.flushall()
    pipe = client.pipeline(transaction=False)
    for number in range(10_000):
        pipe.execute_command(*scripts.PUBLISH.command([], [P, f"queue {number}", "a", "{}", 0, 0], full=True))
    pipe.execute()
    found["10,000 queues swept"] = measured(client, lambda: sweep(client, sweeper))
    client.flushall()
    fill(client, "{}", 100_000)

    def purge() -> None:
        while scripts.PURGE(client, [], [P, Q])[1]:
            pass

    found["a purge of 100,000 messages"] = measured(client, purge)
    return found


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
        worst = storms(client)
        server.stop()
    lines = [
        MARK,
        "## A million waiting messages",
        "",
        f"A message of {len(text):,} bytes takes {ours:,.0f} bytes of Redis with leases, {stock:,.0f} with stock",
        f"Redis, {ours / stock:.2f} x: its message key stands in the list, and beside the message in a hash.",
        "",
        "| script | microseconds of Redis at 1,000 waiting | at 1,000,000 |",
        "| --- | --- | --- |",
        *(f"| {name} | {shallow[name]:.1f} | {deep[name]:.1f} |" for name in deep),
        "",
        "## What must be cleared away at once",
        "",
        "Redis does nothing else while a script runs. So each moves some messages only, and is run again.",
        "",
        "| what | 99 of 100 scripts, ms of Redis | the slowest | scripts |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {one.most_ms:.1f} | {one.slowest_ms:.1f} | {one.count:,} |" for name, one in worst.items()),
        "",
    ]
    print("\n".join(lines))
    REPORT.write_text(REPORT.read_text().partition(MARK)[0] + "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
