"""What we override of kombu is woven into its poller: a change there must be read before it is allowed."""

from __future__ import annotations

import hashlib
import inspect

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

# Printed by this test when it fails: read kombu's change, adapt transport.py and qos.py, then set it.
EXPECTED = "f745533a9499f868"

CHANNEL = (
    "__init__", "_put", "_get", "_size", "_purge", "_restore", "_brpop_start", "_brpop_read", "_has_queue",
    "_new_queue", "_delete", "_maybe_update_queues_expire", "basic_consume", "close", "_flush_brpop_reauth",
)  # fmt: skip
QOS = ("append", "ack", "reject", "restore_unacked", "restore_visible", "can_consume", "restore_unacked_once")
POLLER = ("on_poll_start", "on_readable", "_register_BRPOP", "_update_brpop_polling", "maybe_check_brpop_health", "get")


def test_the_overridden_sources_are_the_ones_we_read():
    sources = [
        *(getattr(kombu_redis.Channel, name) for name in CHANNEL),
        *(getattr(kombu_redis.QoS, name) for name in QOS),
        *(getattr(kombu_redis.MultiChannelPoller, name) for name in POLLER),
        kombu_redis.Transport.register_with_event_loop,
        virtual.Channel.basic_get,
    ]
    text = "".join(inspect.getsource(source) for source in sources)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == EXPECTED
