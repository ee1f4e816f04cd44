"""Messages that nobody would send: each ends as done or as a dead letter, and the worker outlives all of them."""

from __future__ import annotations

import base64
import copy
import json
import random

from celery_leases import keys, scripts
from celery_leases.admin import Admin
from devstack.waiting import until

PREFIX, QUEUE = "leases:", "work"


def mutations(chance: random.Random, whole: dict, count: int) -> list[bytes]:
    """Return envelopes that differ from a good one in one to three places, and some that are none at all."""
    values = [
        None,
        True,
        -1,
        2**70,
        1e400,
        "",
        "x" * 3000,
        [],
        [[]],
        {},
        {"a": {}},
        "\ud800",
        "2026-13-45T99:99",
        "celery",
    ]
    made: list[bytes] = [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'"text"',
        b"{" * 5000,
        b'{"body": 1, "headers": [], "properties": 3}',
    ]
    while len(made) < count:
        envelope = json.loads(json.dumps(whole))
        for _ in range(chance.randint(1, 3)):
            target = chance.choice(
                [envelope, envelope["headers"], envelope["properties"], envelope["properties"]["delivery_info"]]
            )
            if not isinstance(target, dict) or not target:
                continue
            name = chance.choice(list(target))
            if chance.random() < 0.3:
                del target[name]
            else:
                target[name] = copy.deepcopy(chance.choice(values))
            if not all(isinstance(envelope.get(part), dict) for part in ("headers", "properties")):
                break
            if not isinstance(envelope["properties"].get("delivery_info"), dict):
                break
        made.append(json.dumps(envelope).encode("utf-8", "surrogatepass"))
    for _ in range(count // 4):
        envelope = json.loads(json.dumps(whole))
        body = bytearray(base64.b64decode(envelope["body"]))
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        envelope["body"] = base64.b64encode(bytes(body)).decode()
        made.append(json.dumps(envelope).encode())
    return made


def test_no_envelope_ends_the_worker_and_none_is_lost(cluster):
    app, client = cluster.app(), cluster.server.client()
    signature = app.signature("leases_app.add", args=(1, 1))
    whole_id = signature.apply_async().id
    message_key = f"{whole_id}:0:0"
    whole = json.loads(client.hget(keys.key(PREFIX, QUEUE, keys.LIVE), message_key))
    seed = random.randrange(2**32)
    print("seed", seed)
    made = mutations(random.Random(seed), whole, 300)
    for number, text in enumerate(made):
        assert scripts.PUBLISH(client, [], [PREFIX, QUEUE, f"f{number}:0:0", text, 0, 0]) == 1
    # Celery raises on these when the pool's slot is taken already.
    for number in range(4):
        unhashable = {**whole, "headers": {**whole["headers"], "stamps": {"group": [[]]}, "stamped_headers": [[]]}}
        text = json.dumps(unhashable)
        assert scripts.PUBLISH(client, [], [PREFIX, QUEUE, f"u{number}:0:0", text, 0, 0]) == 1
    worker = cluster.worker("-c", "2")
    live = keys.key(PREFIX, QUEUE, keys.LIVE)
    delayed = keys.key(PREFIX, QUEUE, keys.DELAYED)

    def dealt_with() -> bool:
        assert worker.exit_code is None, worker.output()[-3000:]
        return client.hlen(live) == 0

    # What names a task that nobody knows waits, delayed, for a worker that does.
    until(dealt_with, "all to be dealt with", seconds=60)
    assert worker.exit_code is None
    assert signature.apply_async().get(timeout=30) == 2, "and it goes on"
    waiting = {message_key.decode() for message_key in client.zrange(delayed, 0, -1)}
    dead = {letter.message_key for letter in Admin(client, PREFIX).dead_letters([QUEUE], limit=10_000)}
    assert len(dead) > 50
    assert not waiting & dead
    assert worker.exit_code is None
