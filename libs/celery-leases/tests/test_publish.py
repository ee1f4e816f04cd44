"""The publish script, and that it can be had without kombu or Celery."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from celery_leases import keys, scripts
from celery_leases.publish import load, message_key

P = "t:"


def publish(client, name: str, message: str = "{}", due_ms: int = 0, priority: int = 0) -> int:
    return scripts.PUBLISH(client, [], [P, "q", name, message, due_ms, priority])


def test_publish_module_imports_neither_kombu_nor_celery():
    code = (
        "import sys, celery_leases.publish as p; p.message_key('a');"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in {'kombu', 'celery', 'redis'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "expected"), [(("a",), "a:0:0"), (("a", 2), "a:2:0"), (("a:b", 1, 3), "a:b:1:3")]
)
def test_a_message_key_names_one_attempt(arguments, expected):
    assert message_key(*arguments) == expected


def test_a_message_waits_under_its_message_key(client):
    assert publish(client, "a", "message") == 1
    assert client.lrange(keys.key(P, "q", keys.WAITING), 0, -1) == [b"a"]
    assert client.hgetall(keys.key(P, "q", keys.LIVE)) == {b"a": b"message"}
    assert client.smembers(keys.registry(P)) == {b"q"}


def test_a_live_message_key_is_published_once(client):
    assert [publish(client, "a"), publish(client, "a")] == [1, 0]
    assert client.llen(keys.key(P, "q", keys.WAITING)) == 1


def test_a_delayed_message_key_is_published_once(client):
    due = round(time.time() * 1000) + 60_000
    assert [publish(client, "a", due_ms=due), publish(client, "a"), publish(client, "a", due_ms=due)] == [2, 0, 0]
    assert client.zcard(keys.key(P, "q", keys.DELAYED)) == 1
    assert client.llen(keys.key(P, "q", keys.WAITING)) == 0


def test_a_past_due_time_waits_at_once(client):
    assert publish(client, "a", due_ms=1000) == 1


def test_a_settled_message_key_is_not_published_again(client):
    client.zadd(keys.key(P, "q", keys.SETTLED), {"a": 1})
    assert publish(client, "a") == 0


def test_the_bell_does_not_grow_without_bound(client):
    for number in range(100):
        publish(client, str(number))
    assert client.llen(keys.key(P, "q", keys.WAKE_UP)) <= 33


def test_another_script_can_include_it(client):
    script = client.register_script(
        load("celery_leases/scripts/publish.lua")
        + "redis.call('HSET', KEYS[1], 'state', 'PENDING')"
        + "return leases_publish(ARGV[1], ARGV[2], ARGV[3], ARGV[4], 0, 0)"
    )
    assert script(keys=["record"], args=[P, "q", message_key("x"), "message"]) == 1
    assert client.hget("record", "state") == b"PENDING"
    assert client.hget(keys.key(P, "q", keys.LIVE), "x:0:0") == b"message"
