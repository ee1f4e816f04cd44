"""Whatever is published can be taken: for any option, priority, queue name and prefix."""

from __future__ import annotations

import kombu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_leases import keys
from celery_leases.admin import Admin, Depth
from devstack.waiting import until

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
STEPS = st.one_of(
    st.none(),
    st.just(list(range(10))),
    st.lists(st.integers(-3, 300), min_size=1, max_size=12, unique=True).map(sorted),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    priorities=st.lists(st.one_of(st.none(), st.integers(-5, 300)), min_size=1, max_size=12),
    steps=STEPS,
    order=st.sampled_from([None, "round_robin", "priority", "sorted"]),
    queue=NAMES,
    prefix=NAMES,
)
def test_every_message_is_found_and_leaves_nothing(any_redis, priorities, steps, order, queue, prefix):
    client = any_redis.client()
    client.flushall()
    options = {"key_prefix": prefix, "queue_order_strategy": order or "round_robin", "tombstone_seconds": 0}
    if steps is not None:
        options["priority_steps"] = steps
    transport = "celery_leases:Transport"
    with kombu.Connection(any_redis.url, transport=transport, transport_options=options) as connection:
        channel = connection.channel()
        channel.queue_declare(queue)
        for number, priority in enumerate(priorities):
            message = channel.prepare_message(str(number), priority=priority)
            channel.basic_publish(message, "", queue)
        taken = []
        while (message := channel.basic_get(queue)) is not None:
            taken.append(int(message.body))
            channel.basic_ack(message.delivery_tag)
        assert sorted(taken) == list(range(len(priorities)))
        assert Admin(client, prefix).depth(queue) == Depth(queue, waiting=0, running=0, delayed=0, dead=0)
        assert client.exists(*(keys.key(prefix, queue, part) for part in keys.WAITING_LISTS)) == 0


def test_a_worker_serves_celerys_own_priority_steps(cluster):
    cluster.options |= {"priority_steps": list(range(10)), "queue_order_strategy": "priority"}
    app = cluster.app()
    for priority in range(10):
        app.send_task("leases_app.effect", [f"p{priority}"], priority=priority)
    cluster.worker("-c", "1")
    until(lambda: len(cluster.noted("done")) == 10, "all ten")
    order = [line.split()[1] for line in cluster.ledger.read_text().splitlines() if line.startswith("start")]
    assert order == [f"p{priority}" for priority in range(10)]
