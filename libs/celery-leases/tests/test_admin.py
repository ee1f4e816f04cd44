"""What the administration tells, by both kinds of client."""

from __future__ import annotations

import asyncio
import json

import pytest
import redis.asyncio

from celery_leases import scripts
from celery_leases.admin import Admin, AsyncAdmin, Depth, UnknownDeadLetterError

P = "leases:"


def publish(client, queue: str, message_key: str, due_ms: int = 0, priority: int = 0) -> None:
    message = json.dumps({"headers": {"id": message_key, "task": "t"}, "properties": {}, "body": ""})
    assert scripts.PUBLISH(client, [], [P, queue, message_key, message, due_ms, priority])


def bury(client, queue: str, message_key: str) -> None:
    publish(client, queue, message_key)
    scripts.POP(client, [f"{P}{queue}"], [P, "o", 60_000, "poller", 1, "lease"])
    scripts.HAND_BACK(client, [], [P, queue, message_key, "o", 1, "failed", 1])


@pytest.fixture(params=["sync", "async"])
def ask(request, any_redis, client):
    """Call a method of `Admin`, or of `AsyncAdmin`."""

    async def asynchronously(method: str, *arguments, **options):
        async with redis.asyncio.from_url(any_redis.url) as connection:
            return await getattr(AsyncAdmin(connection, P), method)(*arguments, **options)

    def call(method: str, *arguments, **options):
        if request.param == "sync":
            return getattr(Admin(client, P), method)(*arguments, **options)
        return asyncio.run(asynchronously(method, *arguments, **options))

    return call


def test_a_withdrawn_message_waits_nowhere(client, ask):
    for message_key, priority in (("a", 0), ("b", 0), ("c", 3)):
        publish(client, "q", message_key, priority=priority)
    publish(client, "q", "later", due_ms=2**42)
    scripts.WITHDRAW(client, [], [P, "q", "a"])
    (depth,) = ask("depths", ["q"])
    assert depth == Depth("q", waiting=2, running=0, delayed=1, dead=0)
    assert depth.next_message["headers"]["id"] == "b"
    scripts.POP(client, [f"{P}q"], [P, "o", 60_000, "poller", 1, "lease"])
    (depth,) = ask("depths", ["q"])
    assert depth == Depth("q", waiting=1, running=1, delayed=1, dead=0)
    assert depth.next_message["headers"]["id"] == "c"
    assert ask("queues") == ["q"]
    assert ask("depths", ["none"]) == [Depth("none", 0, 0, 0, 0)]
    assert ask("depths", []) == []


def test_dead_letters_of_all_queues_in_pages(client, ask):
    """No page leaves one out, or shows one twice, however many died in one millisecond."""
    for number in range(7):
        bury(client, ("q", "r")[number % 2], str(number))
    for queue in ("q", "r"):
        client.zadd(f"{P}{queue}:dead-at", dict.fromkeys(client.zrange(f"{P}{queue}:dead-at", 0, -1), 5))
        for message_key, text in client.hgetall(f"{P}{queue}:dead").items():
            client.hset(f"{P}{queue}:dead", message_key, json.dumps(json.loads(text) | {"died_at_ms": 5}))
    seen, after = [], None
    while page := ask("dead_letters", ["q", "r"], 2, after):
        seen += [(letter.queue, letter.message_key) for letter in page]
        after = page[-1].position
    assert sorted(ask("dead_message_keys", ["q", "r"])) == [str(number) for number in range(7)]
    assert sorted(seen) == sorted((("q", "r")[number % 2], str(number)) for number in range(7))
    assert ask("dead_letters", ["none"]) == []


def test_one_is_shown_redriven_and_deleted(client, ask):
    bury(client, "q", "a")
    bury(client, "q", "b")
    letter = ask("dead_letter", "q", "a")
    assert (letter.message_key, letter.deliveries, letter.task_id) == ("a", 1, "a")
    ask("redrive", "q", "a")
    ask("discard", "q", "b")
    assert ask("depths", ["q"]) == [Depth("q", waiting=1, running=0, delayed=0, dead=0)]
    for method in ("dead_letter", "redrive", "discard"):
        with pytest.raises(UnknownDeadLetterError, match="'q' has no dead letter 'a'"):
            ask(method, "q", "a")
