"""The life of a message, script by script: each is atomic, so each can be held by itself."""

from __future__ import annotations

import json
import time

import pytest

from celery_leases import keys, scripts
from celery_leases.admin import Admin, Limits, UnknownDeadLetterError
from celery_leases.options import InvalidOptionError, Options
from celery_leases.publish import load
from celery_leases.reports import Reporter
from celery_leases.sweep import Sweeper
from devstack.waiting import until

P, Q = "t:", "q"
BASE = P + Q
HOUR_MS = 3_600_000
RESCHEDULE = load("celery_leases/scripts/reschedule.lua")
RESCHEDULE += "return leases_reschedule(ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]))"


def publish(client, name: str, message: str = "{}", due_ms: int = 0, priority: int = 0) -> int:
    return scripts.PUBLISH(client, [], [P, Q, name, message, due_ms, priority])


def pop(client, owner: str = "me", lease_ms: int = 60_000, mode: str = "lease"):
    return scripts.POP(client, [BASE], [P, owner, lease_ms, "poller", 1, mode])


def settle(client, name: str, owner: str = "me", delivery: int = 1, tombstone_ms: int = 0) -> int:
    return scripts.SETTLE(client, [], [P, Q, name, owner, delivery, tombstone_ms, 0])


def hand_back(client, name: str, *how, owner: str = "me", delivery: int = 1) -> int:
    return scripts.HAND_BACK(client, [], [P, Q, name, owner, delivery, *how])


def sweep(client, **options):
    begin_sweeping(client)
    return Sweeper(client, Options(key_prefix=P, **options)).sweep()


def begin_sweeping(client) -> None:
    """It is this sweeper's turn, and the last sweep was a moment ago: else it would rest for a lease."""
    client.delete(f"{P}sweep-turn")
    client.hsetnx(f"{P}sweep", "swept_at", round(time.time() * 1000))


def report(client, handler, **options) -> int:
    return Reporter(lambda: client, Options(key_prefix=P, on_dead_letter=handler, **options)).report(Q)


def let_expire(client, *names: str) -> None:
    for name in names:
        client.zadd(keys.key(P, Q, keys.LEASES), {name: 1})


def parts(client) -> set[str]:
    return {name.decode().removeprefix(BASE + ":") for name in client.keys(BASE + ":*")}


def test_the_oldest_message_is_leased(client):
    publish(client, "a", "A")
    publish(client, "b", "B")
    assert pop(client) == [1, b"a", b"A", 1, 0]
    assert client.hgetall(keys.key(P, Q, keys.OWNERS)) == {b"a": b"me 1"}
    assert client.hlen(keys.key(P, Q, keys.LIVE)) == 2
    assert client.zcard(keys.key(P, Q, keys.LEASES)) == 1


def test_a_settled_message_leaves_nothing(client):
    publish(client, "a", priority=3)
    pop(client)
    assert scripts.SETTLE(client, [], [P, Q, "a", "me", 1, 0, 3]) == 1
    assert parts(client) == set()


def test_priorities_come_in_their_order(client):
    publish(client, "low", priority=9)
    publish(client, "high")
    publish(client, "middle", priority=3)
    assert [pop(client)[1] for _ in range(3)] == [b"high", b"middle", b"low"]


def test_a_handed_back_message_keeps_its_priority(client):
    publish(client, "low", priority=6)
    pop(client)
    assert hand_back(client, "low", "requeue") == 1
    assert client.lrange(f"{BASE}:waiting.6", 0, -1) == [b"low"]


@pytest.mark.parametrize("stale", [("other", 1), ("me", 2)])
def test_only_the_owner_of_this_delivery_settles(client, stale):
    publish(client, "a")
    pop(client)
    owner, delivery = stale
    assert settle(client, "a", owner, delivery) == 0
    assert hand_back(client, "a", "requeue", owner=owner, delivery=delivery) == 0
    assert scripts.RENEW(client, [], [P, owner, 1000, Q, "a", delivery]) == [1]
    assert client.hlen(keys.key(P, Q, keys.LIVE)) == 1


def test_the_same_owner_wins_it_back_with_another_delivery(client):
    publish(client, "a")
    pop(client)
    let_expire(client, "a")
    sweep(client)
    assert pop(client)[3] == 2
    assert settle(client, "a", delivery=1) == 0
    assert settle(client, "a", delivery=2) == 1
    assert "history" not in parts(client)


def test_renewing_moves_the_end(client):
    publish(client, "a")
    pop(client, lease_ms=1)
    assert scripts.RENEW(client, [], [P, "me", 60_000, Q, "a", 1]) == []
    assert client.zscore(keys.key(P, Q, keys.LEASES), "a") > time.time() * 1000 + 50_000


def test_an_expired_lease_goes_to_the_head(client):
    for name in "abc":
        publish(client, name)
    pop(client)
    let_expire(client, "a")
    assert sweep(client).reclaimed == 1
    assert [pop(client)[1] for _ in range(3)] == [b"a", b"b", b"c"]


def test_consumers_without_acknowledgement_settle_by_the_pop(client):
    publish(client, "a")
    assert pop(client, mode="take") == [1, b"a", b"{}", 1, 0]
    assert parts(client) == set()


def test_a_cancelled_message_is_skipped(client):
    publish(client, "a")
    publish(client, "b")
    assert scripts.WITHDRAW(client, [], [P, Q, "a"]) == 1
    assert pop(client)[1] == b"b"
    assert scripts.WITHDRAW(client, [], [P, Q, "b"]) == 0, "what runs is not withdrawn"


def test_a_delayed_message_is_made_due_at_another_time(client):
    far = round(time.time() * 1000) + HOUR_MS
    publish(client, "a", due_ms=far, priority=3)
    publish(client, "b", due_ms=far)
    publish(client, "c")

    def reschedule(name: str, due_ms: int) -> int:
        return client.eval(RESCHEDULE, 0, P, Q, name, due_ms)

    assert reschedule("a", far + 1) == 2
    assert client.zscore(f"{BASE}:delayed", "a") == far + 1
    assert reschedule("a", 0) == 1
    assert reschedule("b", 1) == 1, "not ahead"
    assert [reschedule(name, 0) for name in ("a", "c", "nobody")] == [0, 0, 0], "only what is delayed"
    assert [pop(client)[1] for _ in range(3)] == [b"c", b"b", b"a"], "with its priority"
    assert client.exists(f"{BASE}:delayed", f"{BASE}:delayed-messages") == 0


def test_a_delayed_message_is_withdrawn(client):
    publish(client, "a", due_ms=round(time.time() * 1000) + 60_000)
    assert scripts.WITHDRAW(client, [], [P, Q, "a"]) == 1
    assert parts(client) == set()


def test_a_message_published_again_after_a_cancel_is_delivered_once(client):
    publish(client, "a")
    scripts.WITHDRAW(client, [], [P, Q, "a"])
    publish(client, "a")
    assert pop(client)[1] == b"a"
    assert pop(client) is None


def test_due_messages_join_their_queue(client):
    publish(client, "a", due_ms=round(time.time() * 1000) + 60_000)
    assert sweep(client).due == 0
    client.zadd(keys.key(P, Q, keys.DELAYED), {"a": 1})
    assert sweep(client).due == 1
    assert pop(client)[1] == b"a"


def test_many_due_messages_join_in_one_sweep(client):
    later = round(time.time() * 1000) + 60_000
    for number in range(1203):
        publish(client, str(number), due_ms=later)
    client.zadd(keys.key(P, Q, keys.DELAYED), {str(number): 1 for number in range(1203)})
    assert sweep(client).due == 1203


def test_a_message_that_ends_badly_alone_is_buried_at_the_limit(client):
    publish(client, "a", "message")
    for delivery in (1, 2):
        pop(client)
        assert hand_back(client, "a", "failed", 3, delivery=delivery) == 1
    pop(client, owner="last")
    let_expire(client, "a")
    assert sweep(client, delivery_limit=3).buried == 1
    letter = json.loads(client.hget(keys.key(P, Q, keys.DEAD), "a"))
    assert letter["message"] == "message"
    assert letter["reason"] == "delivery.limit"
    assert letter["deliveries"] == 3
    assert letter["owner"] == "last"
    assert client.hlen(keys.key(P, Q, keys.LIVE)) == 0


def test_hand_backs_of_a_stopping_worker_are_not_counted(client):
    publish(client, "a")
    for delivery in range(1, 8):
        assert pop(client)[3] == delivery
        assert hand_back(client, "a", "requeue", delivery=delivery) == 1


def test_messages_of_a_dead_node_are_not_blamed(client):
    """They have a limit of their own, which is larger: innocents share slots with a poison message."""
    for name in "ab":
        publish(client, name)
    for life in range(9):
        come_back(client, "a", "b")
        pop(client, owner=f"w{life}")
        pop(client, owner=f"w{life}")
        # The two leases of one owner never end in the same millisecond.
        let_expire(client, "a")
        sweep(client, delivery_limit=3, shared_delivery_limit=10)
        let_expire(client, "b")
        sweep(client, delivery_limit=3, shared_delivery_limit=10)
    assert client.hlen(keys.key(P, Q, keys.DEAD)) == 0
    come_back(client, "a", "b")
    pop(client, owner="last")
    pop(client, owner="last")
    let_expire(client, "a", "b")
    assert sweep(client, delivery_limit=3, shared_delivery_limit=10).buried == 2


def come_back(client, *names: str) -> None:
    """Let what waits apart from others be due."""
    client.zadd(keys.key(P, Q, keys.DELAYED), dict.fromkeys(names, 1), xx=True)
    sweep(client)


def test_what_died_together_comes_back_apart_and_to_the_head(client):
    """An innocent that is always taken together with a poison would be buried with it."""
    for name in "ab":
        publish(client, name)
    moments = []
    for life in range(9):
        assert {pop(client, owner=f"w{life}")[1] for _ in range(2)} == {b"a", b"b"}
        let_expire(client, "a", "b")
        assert sweep(client).reclaimed == 2
        if life == 0:
            assert client.llen(f"{BASE}:waiting") == 2, "once is chance: they are back at once"
            continue
        publish(client, f"later{life}")
        scores = dict(client.zrange(keys.key(P, Q, keys.DELAYED), 0, -1, withscores=True))
        assert set(scores) == {b"a", b"b"}
        assert all(score < time.time() * 1000 + 4_000 for score in scores.values())
        moments.append(scores[b"a"] - scores[b"b"])
        come_back(client, "a", "b")
    assert len(set(moments)) > 4
    assert [pop(client)[1] for _ in range(3)][2] == b"later1", "before those that came later"


def test_an_unknown_task_is_delayed_uncounted_and_then_buried(client):
    publish(client, "a")
    pop(client)
    assert hand_back(client, "a", "unknown", 5_000, 600_000) == 1
    assert client.zcard(keys.key(P, Q, keys.DELAYED)) == 1
    client.zadd(keys.key(P, Q, keys.DELAYED), {"a": 1})
    sweep(client)
    assert pop(client)[3] == 2
    until(lambda: hand_back(client, "a", "unknown", 5_000, 1, delivery=2) == 2, "the grace of a millisecond to end")
    assert json.loads(client.hget(keys.key(P, Q, keys.DEAD), "a"))["reason"] == "contract.unknown"


def test_a_dead_letter_is_reported_until_the_handler_has_returned(client):
    publish(client, "a", json.dumps({"headers": {"id": "x"}}))
    pop(client)
    hand_back(client, "a", "bury", "because")
    seen = []

    def breaks(message, reason):
        seen.append((message["headers"]["id"], reason))
        raise RuntimeError("the sweeper died here")

    assert report(client, breaks) == 0
    assert report(client, breaks) == 0, "it waits for a lease before it is tried again"
    assert seen == [("x", "because")]
    client.zadd(keys.key(P, Q, keys.UNREPORTED), {"a": 1})
    works = []
    assert report(client, lambda _message, reason: works.append(reason)) == 1
    assert works == ["because"]
    assert client.zcard(keys.key(P, Q, keys.UNREPORTED)) == 0


def test_a_message_that_is_no_envelope_is_reported_as_it_is(client):
    publish(client, "a", "\udcff no json".encode("utf-8", "surrogateescape"))
    pop(client)
    hand_back(client, "a", "bury", "message.undecodable")
    seen = []
    report(client, lambda message, _reason: seen.append((message["headers"], "raw" in message)))
    assert seen == [({}, True)]


def test_dead_letters_have_their_time(client):
    publish(client, "a")
    pop(client)
    hand_back(client, "a", "bury", "because")
    client.zadd(keys.key(P, Q, keys.DEAD_AT), {"a": 1})
    sweep(client, dead_letter_retention_seconds=60)
    assert client.hlen(keys.key(P, Q, keys.DEAD)) == 0


def test_redriving_blames_nobody_keeps_the_history_and_stays_newer_than_every_run_before(client):
    publish(client, "a", "message")
    for delivery in (1, 2, 3):
        pop(client)
        hand_back(client, "a", "failed", 3, delivery=delivery)
    assert scripts.REDRIVE(client, [], [P, Q, "a"]) == 3, "the deliveries before it"
    assert scripts.REDRIVE(client, [], [P, Q, "a"]) == -1
    for delivery in (4, 5, 6):
        assert pop(client) == [1, b"a", b"message", delivery, 0]
        hand_back(client, "a", "failed", 3, delivery=delivery)
    letter = Admin(client, P).dead_letter(Q, "a")
    assert [(death.reason, death.deliveries) for death in letter.earlier] == [("delivery.limit", 3)]
    assert letter.deliveries == 6
    Admin(client, P).redrive(Q, "a")
    pop(client)
    settle(client, "a", delivery=7)
    assert not client.exists(keys.key(P, Q, keys.DEATHS), keys.key(P, Q, keys.HISTORY))


def test_a_deleted_dead_letter_is_gone(client):
    publish(client, "a")
    pop(client)
    hand_back(client, "a", "bury", "because")
    Admin(client, P).discard(Q, "a")
    with pytest.raises(UnknownDeadLetterError):
        Admin(client, P).discard(Q, "a")
    left = {key.decode() for key in client.keys(f"{P}{Q}:*")}
    assert left <= {keys.key(P, Q, keys.WAKE_UP), keys.key(P, Q, keys.WAITING)}


def test_tombstones_end(client):
    publish(client, "a")
    pop(client)
    settle(client, "a", tombstone_ms=60_000)
    assert publish(client, "a") == 0
    client.zadd(keys.key(P, Q, keys.SETTLED), {"a": 1})
    sweep(client, tombstone_seconds=60)
    assert publish(client, "a") == 1


def test_scripts_survive_a_redis_that_has_forgotten_them(client):
    publish(client, "a")
    client.script_flush()
    assert pop(client)[1] == b"a"


@pytest.mark.parametrize(
    "options",
    [{"lease_seconds": 0}, {"sweep_interval_seconds": -1}, {"delivery_limit": 0}, {"tombstone_seconds": -1}],
)
def test_options_that_cannot_work_are_refused_by_name(options):
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        Options(**options)


def test_kombus_own_prefix_is_refused():
    with pytest.raises(InvalidOptionError, match="key_prefix"):
        Options.of({"global_keyprefix": "x"})


def test_revoked_tasks_are_remembered_for_so_long_and_so_many(client):
    day_ms = 86_400_000
    client.zadd(f"{P}revoked", {"old": 1})
    scripts.REVOKE(client, [], [P, day_ms, 3, "a", "b"])
    assert client.zrange(f"{P}revoked", 0, -1) == [b"a", b"b"]
    scripts.REVOKE(client, [], [P, day_ms, 3, "c", "d"])
    assert client.zcard(f"{P}revoked") == 3
    assert 0 < client.pttl(f"{P}revoked") <= day_ms
    publish(client, "d:0:0")
    publish(client, "d:7:1")
    publish(client, "e:0:0")
    assert [pop(client)[4] for _ in range(3)] == [1, 1, 0]


def test_nothing_of_a_paused_queue_is_delivered(client):
    admin = Admin(client, P)
    publish(client, "a")
    pop(client)
    assert admin.pause(Q, "its database is down")
    publish(client, "b")
    assert pop(client) is None
    assert settle(client, "a") == 1, "what runs ends"
    assert pop(client) is None
    assert not admin.pause(Q, "still", until_ms=round(time.time() * 1000) + HOUR_MS)
    pause = admin.depth(Q).pause
    assert (pause.note, pause.until_ms > pause.since_ms) == ("still", True)
    client.delete(keys.key(P, Q, keys.WAKE_UP))
    assert admin.resume(Q)
    assert client.llen(keys.key(P, Q, keys.WAKE_UP)) == 32, "idle workers are woken"
    assert pop(client)[1] == b"b"
    assert not admin.resume(Q)


def test_a_pause_ends_at_its_time(client):
    publish(client, "a")
    Admin(client, P).pause(Q, until_ms=round(time.time() * 1000) + 200)
    assert pop(client) is None
    until(lambda: pop(client), "the pause to end")


def test_a_pause_of_one_queue_is_no_other_ones(client):
    Admin(client, P).pause(Q)
    publish(client, "a")
    scripts.PUBLISH(client, [], [P, "other", "b", "{}", 0, 0])
    popped = scripts.POP(client, [BASE, f"{P}other"], [P, "me", 60_000, "poller", 1, "lease", "lease"])
    assert popped[:2] == [2, b"b"]


def test_a_queue_runs_no_more_than_its_limit(client):
    admin = Admin(client, P)
    admin.limit(Q, max_running=2)
    for name in "abcd":
        publish(client, name)
    assert [pop(client)[1], pop(client)[1], pop(client)] == [b"a", b"b", None]
    client.delete(keys.key(P, Q, keys.WAKE_UP))
    settle(client, "a")
    assert client.exists(keys.key(P, Q, keys.WAKE_UP)), "who waits for a place is woken"
    assert [pop(client)[1], pop(client)] == [b"c", None]
    let_expire(client, "b", "c")
    sweep(client)
    assert [pop(client)[1], pop(client)[1], pop(client)] == [b"b", b"c", None], "a lease that ended counts no more"
    admin.limit(Q, max_running=None, rate_per_second=None)
    assert pop(client)[1] == b"d"


def test_a_queue_delivers_no_faster_than_its_rate(client):
    admin, limits = Admin(client, P), keys.key(P, Q, keys.LIMITS)
    for number in range(20):
        publish(client, str(number))

    def popped(seconds_later: float) -> int:
        """How many messages are delivered at once, so long after the last ones."""
        for counted_at in filter(None, [client.hget(limits, "counted_at")]):
            client.hset(limits, "counted_at", int(counted_at) - round(seconds_later * 1000))
        return len([message for _ in range(20) if (message := pop(client))])

    # 1,000 s for one: the time that the test itself takes gives nothing.
    admin.limit(Q, rate_per_second=0.001)
    assert popped(0) == 1, "the first one at once"
    assert [popped(400), popped(400), popped(400)] == [0, 0, 1]
    assert popped(10_000) == 1, "no more than one is saved"
    admin.limit(Q, rate_per_second=3)
    assert popped(3600) == 3, "no more is saved than a second gives"
    admin.limit(Q, max_running=None, rate_per_second=None)
    assert popped(0) == 14


@pytest.mark.parametrize("limits", [{"max_running": 0}, {"rate_per_second": -1.0}, {"rate_per_second": float("nan")}])
def test_a_limit_of_nothing_is_refused(client, limits):
    with pytest.raises(ValueError, match="more than 0"):
        Admin(client, P).limit(Q, **limits)


def test_each_limit_is_changed_by_itself(client):
    admin = Admin(client, P)
    admin.limit(Q, max_running=3)
    admin.limit(Q, rate_per_second=0.5)
    assert admin.depth(Q).limits == Limits(3, 0.5)
    admin.limit(Q, max_running=None)
    assert admin.depth(Q).limits == Limits(None, 0.5)
    admin.limit(Q, rate_per_second=None)
    assert not client.exists(keys.key(P, Q, keys.LIMITS))
