"""Random orders of publish, pop, renew, expire, acknowledge and kill: no message is lost, and none is held twice."""

from __future__ import annotations

import logging
from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from celery_leases import keys, scripts
from celery_leases.admin import Admin
from celery_leases.options import Options
from celery_leases.sweep import Sweeper, Swept

from .test_scripts import begin_sweeping

P, Q = "t:", "q"
BASE = P + Q
MESSAGE_KEYS = st.sampled_from([f"t{number}" for number in range(6)])
OWNERS = st.sampled_from(["ann", "bob", "cat"])
LIMIT, SHARED_LIMIT = 3, 5


class Broker(RuleBasedStateMachine):
    """What must be true, beside what Redis holds."""

    client = None  # the server, set by the test

    @initialize()
    def begin(self) -> None:
        self.client.flushall()
        self.waiting: set[str] = set()
        # message key -> (owner, delivery)
        self.leased: dict[str, tuple[str, int]] = {}
        self.delayed: set[str] = set()
        self.dead: set[str] = set()
        # Message keys that have ended well, and may begin anew.
        self.ended: set[str] = set()
        # Every lease that there ever was: whoever speaks for one that is over must change nothing.
        self.past: list[tuple[str, str, int]] = []
        self.sweeper = Sweeper(
            self.client,
            Options(
                key_prefix=P,
                on_dead_letter=None,
                delivery_limit=LIMIT,
                shared_delivery_limit=SHARED_LIMIT,
                tombstone_seconds=0,
            ),
        )

    @rule(message_key=MESSAGE_KEYS, later=st.booleans(), priority=st.sampled_from([0, 0, 3, 4, 9]))
    def publish(self, message_key: str, later: bool, priority: int) -> None:
        due_ms = 2**42 if later else 0
        outcome = scripts.PUBLISH(self.client, [], [P, Q, message_key, f"message of {message_key}", due_ms, priority])
        if (
            message_key in self.waiting
            or message_key in self.leased
            or message_key in self.delayed
            or message_key in self.dead
        ):
            assert outcome == 0, "a message key that is somewhere is not published again"
        elif later:
            assert outcome == 2
            self.delayed.add(message_key)
        else:
            assert outcome == 1
            self.waiting.add(message_key)

    @rule(owner=OWNERS)
    def pop(self, owner: str) -> None:
        found = scripts.POP(self.client, [BASE], [P, owner, 60_000, owner, len(self.past), "lease"])
        if found is None:
            assert not self.waiting, "what waits is found"
            return
        _, message_key, message, delivery, _ = found
        message_key = message_key.decode()
        assert message_key in self.waiting, "nobody else holds it"
        assert message.decode() == f"message of {message_key}"
        if message_key not in self.ended:
            assert all(delivery > earlier for name, _, earlier in self.past if name == message_key), (
                "newer than all before"
            )
        self.waiting.remove(message_key)
        self.leased[message_key] = (owner, delivery)
        self.past.append((message_key, owner, delivery))

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        if not self.past:
            return
        message_key, owner, delivery = data.draw(st.sampled_from(self.past))
        done = scripts.SETTLE(self.client, [], [P, Q, message_key, owner, delivery, 0, 1])
        assert done == int(self.leased.get(message_key) == (owner, delivery)), "only the owner of this delivery settles"
        if done:
            self._end(message_key)

    @rule(
        data=st.data(),
        how=st.sampled_from([("requeue",), ("failed", LIMIT), ("unknown", 2**41, 600_000), ("bury", "why")]),
    )
    def hand_back(self, data: st.DataObject, how: tuple) -> None:
        if not self.past:
            return
        message_key, owner, delivery = data.draw(st.sampled_from(self.past))
        outcome = scripts.HAND_BACK(self.client, [], [P, Q, message_key, owner, delivery, *how])
        if self.leased.get(message_key) != (owner, delivery):
            assert outcome == 0, "only the owner of this delivery hands it back"
            return
        del self.leased[message_key]
        if outcome == 2:
            assert how[0] in {"bury", "failed"}
            self.dead.add(message_key)
        elif how[0] == "unknown":
            self.delayed.add(message_key)
        else:
            self.waiting.add(message_key)

    @rule(owner=OWNERS, number=st.integers(0, 40))
    def give_back(self, owner: str, number: int) -> None:
        """The answer of a pop was lost, or is said to have been."""
        last = next((one for one in reversed(self.past) if one[1] == owner), None)
        before = dict(self.leased)
        if scripts.GIVE_BACK(self.client, [], [P, owner, owner, number]):
            message_key = last[0]
            assert before[message_key] == last[1:]
            del self.leased[message_key]
            self.waiting.add(message_key)

    @rule(owner=OWNERS)
    def renew(self, owner: str) -> None:
        arguments, mine = [], []
        for message_key, of, delivery in self.past:
            if of == owner:
                arguments += [Q, message_key, delivery]
                mine.append(self.leased.get(message_key) == (owner, delivery))
        lost = scripts.RENEW(self.client, [], [P, owner, 60_000, *arguments])
        assert sorted(lost) == [position for position, is_mine in enumerate(mine, 1) if not is_mine]

    @rule(owner=OWNERS)
    def kill(self, owner: str) -> None:
        """All leases of an owner end, and a sweep comes by."""
        message_keys = [message_key for message_key, (of, _) in self.leased.items() if of == owner]
        if message_keys:
            self.client.zadd(keys.key(P, Q, keys.LEASES), dict.fromkeys(message_keys, 1))
        swept = self._sweep()
        assert swept.reclaimed + swept.buried == len(message_keys)
        for message_key in message_keys:
            del self.leased[message_key]
            # What died together with others more than once comes back apart from them.
            places = {keys.LIVE: self.waiting, keys.DELAYED: self.delayed, keys.DEAD: self.dead}
            next(names for part, names in places.items() if message_key in self._names(part)).add(message_key)

    @rule()
    def time_passes(self) -> None:
        """Everything that is delayed becomes due."""
        if self.delayed:
            self.client.zadd(keys.key(P, Q, keys.DELAYED), dict.fromkeys(self.delayed, 1))
        assert self._sweep().due == len(self.delayed)
        self.waiting |= self.delayed
        self.delayed.clear()

    @rule(message_key=MESSAGE_KEYS)
    def withdraw(self, message_key: str) -> None:
        taken = scripts.WITHDRAW(self.client, [], [P, Q, message_key])
        assert taken == int(message_key in self.waiting or message_key in self.delayed)
        if taken:
            self.waiting.discard(message_key)
            self.delayed.discard(message_key)
            self._end(message_key)

    @rule(message_key=MESSAGE_KEYS)
    def redrive(self, message_key: str) -> None:
        outcome = scripts.REDRIVE(self.client, [], [P, Q, message_key])
        assert (outcome >= 0) == (message_key in self.dead)
        if outcome >= 0:
            self.dead.remove(message_key)
            self.waiting.add(message_key)

    @rule(message_key=MESSAGE_KEYS)
    def discard(self, message_key: str) -> None:
        assert scripts.DISCARD(self.client, [], [P, Q, message_key]) == int(message_key in self.dead)
        if message_key in self.dead:
            self.dead.remove(message_key)
            self._end(message_key)

    def _sweep(self) -> Swept:
        begin_sweeping(self.client)
        return self.sweeper.sweep()

    def _end(self, message_key: str) -> None:
        self.leased.pop(message_key, None)
        self.ended.add(message_key)

    def _names(self, part: str) -> set[str]:
        key = keys.key(P, Q, part)
        found = self.client.hkeys(key) if self.client.type(key) == b"hash" else self.client.zrange(key, 0, -1)
        return {name.decode() for name in found}

    @invariant()
    def everything_is_somewhere(self) -> None:
        if not hasattr(self, "waiting"):
            return
        live = self.waiting | set(self.leased)
        assert self._names(keys.LIVE) == live
        assert self._names(keys.LEASES) == self._names(keys.OWNERS) == set(self.leased)
        assert self._names(keys.DELAYED) == self._names(keys.DELAYED_MESSAGES) == self.delayed
        assert not live & self.delayed
        assert not (live | self.delayed) & self.dead
        assert self._names(keys.DEAD) == self._names(keys.DEAD_AT) == self.dead
        depth = Admin(self.client, P).depth(Q)
        assert (depth.waiting, depth.running) == (len(self.waiting), len(self.leased))
        held = {name.decode(): int(count) for name, count in self.client.hgetall(f"{P}held").items()}
        assert held == Counter(owner for owner, _ in self.leased.values())
        assert (Q.encode() in self.client.smembers(keys.registry(P))) or not (live | self.delayed | self.dead)
        listed = {
            message_key.decode()
            for part in keys.WAITING_LISTS
            for message_key in self.client.lrange(keys.key(P, Q, part), 0, -1)
        }
        assert self.waiting <= listed


def test_no_message_key_is_ever_lost_or_held_twice(any_redis, caplog):
    client = any_redis.client()

    class Here(Broker):
        pass

    Here.client = client
    checks = list(HealthCheck)
    caplog.set_level(logging.ERROR, "celery_leases")  # thousands of sweeps have much to tell
    run_state_machine_as_test(
        Here, settings=settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=checks)
    )
