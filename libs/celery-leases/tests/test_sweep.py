"""The sweep under what goes wrong: clocks, silence, a full Redis, bad keys, half-done work, great numbers."""

from __future__ import annotations

import threading
import time

import pytest
from redis.exceptions import OutOfMemoryError

from celery_leases import keys, scripts
from celery_leases.admin import Admin, Depth
from celery_leases.options import Options
from celery_leases.sweep import Sweeper
from devstack.waiting import until

from .test_scripts import BASE, P, Q, begin_sweeping, hand_back, let_expire, parts, pop, publish, report, settle, sweep

HOUR_MS = 3_600_000


def now_ms(client) -> int:
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds // 1000


def step_clock(client, milliseconds: int) -> None:
    """What Redis holds of its clock, as it would be if the clock had jumped by this much."""
    client.hincrby(f"{P}sweep", "swept_at", -milliseconds)
    for part in (keys.LEASES, keys.UNREPORTED):
        for message_key, _ in client.zrange(keys.key(P, Q, part), 0, -1, withscores=True):
            client.zincrby(keys.key(P, Q, part), -milliseconds, message_key)


@pytest.mark.parametrize("jump_ms", [15_000, HOUR_MS])
def test_leases_outlive_a_clock_that_jumps_ahead(client, jump_ms):
    publish(client, "a")
    pop(client, lease_ms=10_000)
    assert not sweep(client).is_resting
    step_clock(client, jump_ms)
    swept = sweep(client)
    assert (swept.reclaimed, swept.is_resting) == (0, True)
    assert scripts.RENEW(client, [], [P, "me", 10_000, Q, "a", 1]) == [], "its owner has it as before"
    client.hset(f"{P}sweep", "rests_until", now_ms(client))
    assert sweep(client).reclaimed == 0


def test_after_the_rest_an_owner_that_did_not_come_back_loses_its_lease(client):
    publish(client, "a")
    pop(client)
    sweep(client)
    step_clock(client, HOUR_MS)
    assert sweep(client).is_resting
    client.hset(f"{P}sweep", "rests_until", now_ms(client))
    assert sweep(client).reclaimed == 1


def test_who_finds_that_nobody_has_swept_rests_first(client):
    publish(client, "a")
    pop(client)
    let_expire(client, "a")
    swept = Sweeper(client, Options(key_prefix=P)).sweep()
    assert (swept.reclaimed, swept.is_resting) == (0, True)


def test_a_clock_that_jumps_back_keeps_no_lease_and_no_sweep_for_longer(client):
    publish(client, "a")
    pop(client)
    sweep(client)
    step_clock(client, -HOUR_MS)
    client.set(f"{P}sweep-turn", 1, px=HOUR_MS)
    options = Options(key_prefix=P, lease_seconds=10)
    assert Sweeper(client, options).sweep().is_resting is False, "another's turn is not waited for by the old clock"
    assert client.zscore(keys.key(P, Q, keys.LEASES), "a") <= now_ms(client) + 10_000


def test_one_process_sweeps_at_a_time(client):
    publish(client, "a")
    pop(client)
    let_expire(client, "a")
    options = Options(key_prefix=P, sweep_interval_seconds=60)
    client.set(f"{P}sweep-turn", 1, px=50_000)
    assert Sweeper(client, options).sweep().reclaimed == 0
    begin_sweeping(client)
    assert Sweeper(client, options).sweep().reclaimed == 1


def test_a_full_redis_renews_settles_hands_back_and_sweeps(client):
    for name in "abcde":
        publish(client, name)
    for _ in "abcd":
        pop(client)
    publish(client, "later", due_ms=now_ms(client) + 60_000)
    client.zadd(keys.key(P, Q, keys.DELAYED), {"later": 1})
    let_expire(client, "d")
    begin_sweeping(client)
    try:
        client.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            publish(client, "f")
        assert scripts.RENEW(client, [], [P, "me", 60_000, Q, "a", 1]) == []
        assert settle(client, "a", tombstone_ms=1000) == 1
        assert hand_back(client, "b", "requeue") == 1
        assert hand_back(client, "c", "bury", "why") == 2
        swept = Sweeper(client, Options(key_prefix=P)).sweep()
        assert (swept.due, swept.reclaimed, swept.unswept) == (1, 1, {})
        assert report(client, lambda *_: None) == 1
        assert pop(client)[1] == b"d"
        assert scripts.GIVE_BACK(client, [], [P, "me", "poller", 1]) == 1
        assert scripts.PURGE(client, [], [P, Q])[0] > 0
    finally:
        client.config_set("maxmemory", 0)


def test_a_bad_key_stops_its_queue_alone_and_moves_nothing_of_it(client, caplog):
    for part in (keys.LIVE, keys.WAITING, keys.HISTORY, keys.LEASES, keys.DELAYED, keys.SETTLED):
        client.flushall()
        client.set(keys.key(P, "bad", part), "a string")
        client.sadd(keys.registry(P), "bad")
        if part != keys.LEASES:
            client.zadd(keys.key(P, "bad", keys.LEASES), {"x": 1})
        publish(client, "a")
        pop(client)
        let_expire(client, "a")
        swept = sweep(client)
        assert swept.reclaimed == 1, part
        assert list(swept.unswept) == ["bad"], part
        if part in {keys.LIVE, keys.WAITING, keys.HISTORY, keys.DELAYED}:
            assert client.zcard(keys.key(P, "bad", keys.LEASES)) == 1, part
    assert "queue bad cannot be swept" in caplog.text


def test_what_a_purge_left_half_way_is_found(client):
    for name in "ab":
        publish(client, name, priority=0 if name == "a" else 4)
    for list_name in (keys.WAITING, f"{keys.WAITING}.4"):
        client.delete(keys.key(P, Q, list_name))
    assert Admin(client, P).depth(Q).waiting == 2
    assert pop(client) is None
    sweep(client)
    assert [pop(client)[1] for _ in range(2)] == [b"a", b"b"]


def test_a_queue_is_registered_while_it_holds_anything(client):
    assert Admin(client, P).queues() == []
    publish(client, "a")
    pop(client)
    sweep(client)
    assert Admin(client, P).queues() == [Q]
    settle(client, "a")
    sweep(client)
    assert Admin(client, P).queues() == []
    publish(client, "b", due_ms=now_ms(client) + 60_000)
    sweep(client)
    assert Admin(client, P).queues() == [Q]
    scripts.WITHDRAW(client, [], [P, Q, "b"])
    sweep(client)
    assert {key for key in client.keys(f"{P}*") if b"sweep" not in key and b"popped" not in key} == set()


def test_a_cancelled_backlog_leaves_nothing(client):
    for name in "abc":
        publish(client, name, priority=7)
        scripts.WITHDRAW(client, [], [P, Q, name])
    sweep(client)
    assert parts(client) == set()


def test_a_deleted_queue_is_gone_with_its_leases(client):
    for name in "ab":
        publish(client, name, priority=3)
        pop(client)
    scripts.DELETE(client, [], [P, Q, *keys.PARTS])
    assert parts(client) == set()
    assert Admin(client, P).queues() == []
    assert client.hgetall(f"{P}held") == {}
    publish(client, "c")
    assert Admin(client, P).queues() == [Q], "what is published after it is found by the sweep"


def test_a_purge_takes_all_priorities_and_what_is_delayed_and_spares_what_runs(client):
    publish(client, "running")
    pop(client)
    client.rpush(keys.key(P, Q, keys.WAITING), "running", "running")
    for priority in range(10):
        publish(client, f"p{priority}", priority=priority)
    publish(client, "later", due_ms=now_ms(client) + 60_000)
    for number in range(500):
        publish(client, f"n{number}")
    removed, has_more = 0, 1
    while has_more:
        some, has_more = scripts.PURGE(client, [], [P, Q])
        removed += some
    assert removed == 511
    assert Admin(client, P).depth(Q) == Depth(Q, waiting=0, running=1, delayed=0, dead=0)
    assert settle(client, "running") == 1


def test_an_expired_queue_is_deleted_unless_something_of_it_runs(client):
    client.sadd(keys.expiring(P), Q)
    client.set(keys.key(P, Q, keys.EXPIRES), 60_000, px=60_000)
    publish(client, "a")
    pop(client)
    publish(client, "b")
    sweep(client)
    assert client.pttl(keys.key(P, Q, keys.EXPIRES)) > 0
    client.delete(keys.key(P, Q, keys.EXPIRES))
    sweep(client)
    assert client.hlen(keys.key(P, Q, keys.LIVE)) == 2, "one of them runs"
    settle(client, "a")
    sweep(client)
    assert parts(client) == set()
    assert client.smembers(keys.expiring(P)) == set()


def test_the_message_of_a_lost_answer_goes_back_to_the_head_uncounted(client):
    for name in "ab":
        publish(client, name)
    for _ in range(5):
        assert pop(client)[1] == b"a"
        assert scripts.GIVE_BACK(client, [], [P, "me", "poller", 1]) == 1
        assert scripts.GIVE_BACK(client, [], [P, "me", "poller", 1]) == 0
    assert client.hgetall(f"{P}held") == {}
    assert client.hget(keys.key(P, Q, keys.HISTORY), "a") == b"5 0 0 0"
    pop(client)
    assert scripts.GIVE_BACK(client, [], [P, "me", "poller", 2]) == 0, "that pop never reached Redis"
    assert settle(client, "a", delivery=6) == 1


def test_a_delivery_that_was_never_confirmed_is_not_blamed_alone(client):
    publish(client, "a")
    pop(client, lease_ms=1)
    until(lambda: sweep(client).reclaimed, "the lease to end")
    assert client.hget(keys.key(P, Q, keys.HISTORY), "a") == b"1 0 1 0"
    pop(client, lease_ms=60_000)
    assert scripts.RENEW(client, [], [P, "me", 1, Q, "a", 2]) == []
    until(lambda: sweep(client).reclaimed, "the lease to end")
    assert client.hget(keys.key(P, Q, keys.HISTORY), "a") == b"2 1 1 0"


def test_a_redriven_message_keeps_its_priority(client):
    publish(client, "a", priority=6)
    pop(client)
    hand_back(client, "a", "bury", "why")
    Admin(client, P).redrive(Q, "a")
    assert client.lrange(f"{BASE}:waiting.6", 0, -1) == [b"a"]


def bury(client, names: str) -> None:
    """Make a dead letter of each name, for the reason that it is called by."""
    for name in names:
        publish(client, name)
        pop(client)
        hand_back(client, name, "bury", name)


def test_a_handler_that_hangs_holds_nothing_up(client):
    bury(client, "abcdefg")
    seen = []

    def hangs(_message: object, reason: str) -> None:
        seen.append(reason)
        if reason in "ab":
            ended.wait(60)

    ended = threading.Event()
    # Were it waited for, this would be 60 seconds later.
    started = time.monotonic()
    assert report(client, hangs, on_dead_letter_seconds=0.1) == 5
    assert time.monotonic() - started < 30
    ended.set()
    assert seen == list("abcdefg")
    until(lambda: client.zcard(keys.key(P, Q, keys.UNREPORTED)) == 0, "those that hung to be reported when they return")


def test_nothing_more_is_reported_while_too_many_handlers_hang(client):
    bury(client, "abcdefg")
    seen = []

    def hangs(_message: object, reason: str) -> None:
        seen.append(reason)
        time.sleep(5)

    assert report(client, hangs, on_dead_letter_seconds=0.05) == 0
    assert seen == list("abcd")


def test_great_numbers_are_moved_in_short_scripts(client):
    """No time is measured here, but steps: a script moves 200 messages, or looks at so many."""
    with client.pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.hset(keys.key(P, Q, keys.LIVE), f"m{number}", "{}")
            pipe.hset(keys.key(P, Q, keys.OWNERS), f"m{number}", f"owner{number} 1")
            pipe.zadd(keys.key(P, Q, keys.LEASES), {f"m{number}": 1})
            pipe.zadd(keys.key(P, Q, keys.SETTLED), {f"s{number}": 1})
        pipe.sadd(keys.registry(P), Q)
        pipe.execute()
    client.config_resetstat()
    assert sweep(client).reclaimed == 1000
    calls = client.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] >= 6
    assert client.zcard(keys.key(P, Q, keys.SETTLED)) == 0


def test_a_pop_behind_many_cancelled_messages_looks_at_some_at_a_time(client):
    with client.pipeline(transaction=False) as pipe:
        for number in range(450):
            pipe.lpush(keys.key(P, Q, keys.WAITING), f"gone{number}")
        pipe.execute()
    publish(client, "a")
    assert [pop(client), pop(client)] == [[], []]
    assert pop(client)[1] == b"a"
