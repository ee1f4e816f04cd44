"""The double in memory and the scripts in Redis: whatever is done to both, they answer and hold the same."""

from __future__ import annotations

import json
import time
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from celery_leases import scripts
from celery_leases.admin import Admin
from devstack.servers import RedisServer
from offload_core import keys, records
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import TaskStore
from offload_worker.testing import MemoryBroker, MemoryTaskStore, Popped

PREFIX, BROKER = "offload:", "offload:queue:"
OWNER = "a worker"
QUEUES = ("left", "right")
ERROR = {"code": "it.failed", "message": "on purpose"}

shapes = st.lists(st.integers(min_value=1, max_value=3), min_size=1, max_size=3)


class Machine(RuleBasedStateMachine):
    """One operation at a time on both."""

    server: ClassVar[RedisServer]
    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.redis = self.server.client()
        self.redis.flushall()
        self.real = TaskStore(PREFIX, BROKER, keep_ms=3_600_000)
        self.broker = MemoryBroker(delivery_limit=2)
        self.memory = MemoryTaskStore(self.broker)
        self.tasks: list[str] = []
        self.pops = 0

    def both(self, call, answer) -> str:
        """Run a script, and hold its answer against that of the double."""
        found = call.run(self.redis)
        text = found[0].decode() if isinstance(found, list) else found.decode() if isinstance(found, bytes) else found
        if isinstance(text, str) and text.startswith("run:"):
            text = ":".join(text.split(":")[:2])
        assert text == answer
        return answer

    @rule(shape=shapes, due=st.sampled_from(["none", "expired", "later"]), data=st.data())
    def accept(self, shape, due, data) -> None:
        if len(self.tasks) >= 4:
            return
        task_id = f"t{len(self.tasks)}"
        now_ms = round(time.time() * 1000)
        self.broker.now_ms = now_ms
        queue = st.sampled_from(QUEUES)
        stages = [tuple(NewStep("a.b.v1", data.draw(queue), {"n": n}, "v") for n in range(size)) for size in shape]
        expires_at = {"none": None, "expired": now_ms - 1000, "later": now_ms + 3_600_000}[due]
        task = Publisher("test").task(
            task_id, "task", "test", stages, expires_at=expires_at, headers={"retry": {"a": 1}}
        )
        self.both(self.real.accept(task), self.memory.accept(task))
        self.tasks.append(task_id)

    @rule(target=taken, queues=st.sampled_from([QUEUES, QUEUES[::-1], QUEUES[:1]]))
    def pop(self, queues) -> object:
        self.pops += 1
        bases = [f"{BROKER}{queue}" for queue in queues]
        found = scripts.POP(self.redis, bases, [BROKER, OWNER, 600_000, "poller", self.pops, *["lease"] * len(queues)])
        mine = self.broker.pop(queues)
        if found is None:
            assert mine is None
            return None
        index, message_key, message, delivery, _ = found
        assert mine is not None
        assert (queues[int(index) - 1], message_key.decode(), int(delivery)) == mine[:2] + mine[3:]
        theirs, ours = json.loads(message), json.loads(mine.message)
        assert (theirs["headers"]["task_type_version"], theirs["headers"]["retry"]) == ("v", {"a": 1})
        assert theirs["headers"]["retries"] == ours["headers"]["retries"]
        return mine

    @staticmethod
    def run_of(popped: Popped) -> tuple[keys.Step, tuple[int, int]]:
        celery_id, attempt, _ = popped.message_key.rsplit(":", 2)
        return keys.step_of(celery_id), (int(attempt), popped.delivery)

    @rule(popped=taken)
    def start(self, popped) -> None:
        if popped is not None:
            step, run = self.run_of(popped)
            self.both(self.real.start(step, run, OWNER, {}), self.memory.start(step, run))

    @rule(popped=taken, state=st.sampled_from(["SUCCESS", "SUCCESS", "SUCCESS", "FAILURE"]))
    def finish(self, popped, state) -> None:
        if popped is not None:
            step, run = self.run_of(popped)
            outcome = {"by": popped.message_key} if state == "SUCCESS" else ERROR
            self.both(self.real.finish(step, run, state, outcome), self.memory.finish(step, run, state, outcome))

    @rule(popped=taken)
    def progress(self, popped) -> None:
        if popped is not None:
            step, run = self.run_of(popped)
            self.both(self.real.progress(step, run, 1, 2), self.memory.progress(step, run, 1, 2))

    @rule(popped=consumes(taken))
    def retry(self, popped) -> None:
        """As a step does it: the next attempt is published, the record notes it, the message is settled."""
        if popped is None:
            return
        step, (attempt, delivery) = self.run_of(popped)
        message_key = f"{keys.step_id(*step)}:{attempt + 1}:0"
        message = json.loads(popped.message)
        message["headers"] |= {"retries": attempt + 1, "retry": {"a": 1}, "task_type_version": "v"}
        text = json.dumps(message)
        theirs = scripts.PUBLISH(self.redis, [], [BROKER, popped.queue, message_key, text, 0, 0])
        assert theirs == self.broker.publish(popped.queue, message_key, text)
        now = self.broker.now_ms
        run = (attempt, delivery)
        self.both(self.real.retry(step, run, ERROR, now), self.memory.retry(step, run, ERROR, now))
        self.end(popped)

    @rule(popped=consumes(taken))
    def settle(self, popped) -> None:
        if popped is not None:
            self.end(popped)

    def end(self, popped: Popped) -> None:
        arguments = [BROKER, popped.queue, popped.message_key, OWNER, popped.delivery, 0, 0]
        assert bool(scripts.SETTLE(self.redis, [], arguments)) == self.broker.settle(popped)

    @rule(popped=consumes(taken))
    def stop(self, popped) -> None:
        """The worker stops, and hands it back."""
        if popped is not None:
            arguments = [BROKER, popped.queue, popped.message_key, OWNER, popped.delivery, "requeue"]
            assert bool(scripts.HAND_BACK(self.redis, [], arguments)) == self.broker.requeue(popped)

    @rule(popped=consumes(taken))
    def die(self, popped) -> None:
        """The worker dies; at the limit the message is buried, and its task is told."""
        if popped is None:
            return
        arguments = [BROKER, popped.queue, popped.message_key, OWNER, popped.delivery, "failed", 2]
        is_buried = scripts.HAND_BACK(self.redis, [], arguments) == 2
        assert is_buried == (self.broker.lose(popped) is not None)
        if is_buried:
            step, (attempt, _) = self.run_of(popped)
            last = (attempt, records.BURIED)
            self.both(self.real.finish(step, last, "FAILURE", ERROR), self.memory.finish(step, last, "FAILURE", ERROR))
            scripts.REPORTED(self.redis, [f"{BROKER}{popped.queue}"], [popped.message_key])
            letter = self.broker.dead_letter(popped.queue, popped.message_key)
            assert letter is not None
            letter.reported = True

    @rule(number=st.integers(min_value=0, max_value=3))
    def cancel(self, number) -> None:
        self.both(self.real.cancel(f"t{number}"), self.memory.cancel(f"t{number}"))

    @rule()
    def expire(self) -> None:
        assert self.real.expire().run(self.redis) == self.memory.expire()

    @rule(number=st.integers(min_value=0, max_value=10))
    def redrive(self, number) -> None:
        letters = self.broker.dead_letters()
        if letters:
            letter = letters[number % len(letters)]
            self.both(self.real.redrive(*letter), self.memory.redrive(*letter))

    @invariant()
    def holds_the_same(self) -> None:
        for task_id in self.tasks:
            theirs = records.decode(task_id, self.redis.hgetall(keys.record(PREFIX, task_id)))
            assert outline(theirs) == outline(self.memory.record(task_id))
        live, dead = set(), set()
        for queue in QUEUES:
            live |= {key.decode() for key in self.redis.hkeys(f"{BROKER}{queue}:live")}
            dead |= {(queue, key) for key in Admin(self.redis, BROKER).dead_message_keys([queue])}
        assert live == self.broker.live()
        assert dead == set(self.broker.dead_letters())


def outline(record: records.Record | None) -> object:
    """What both must have: all but times and who it was."""
    assert record is not None
    steps = [
        (one.state, one.attempt, one.delivery, one.result, one.error, one.progress, one.stage) for one in record.steps
    ]
    return record.state, record.cancel_requested, record.finished_at is not None, steps


@pytest.mark.timeout(600)
def test_the_double_and_the_scripts_agree(tmp_path):
    server = RedisServer(tmp_path)
    server.start()
    Machine.server = server
    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=30,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                # A minute of looking for a shorter example of the same says little more.
                phases=[Phase.explicit, Phase.reuse, Phase.generate],
            ),
        )
    finally:
        server.stop()
