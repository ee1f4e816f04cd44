"""Publishing without kombu or Celery, for processes that have no use for a worker's imports.

`PUBLISH_LUA` defines the Lua function ``leases_publish``. A script of one's own that starts with it can write a record
and publish its message in one atomic step::

    script = client.register_script(PUBLISH_LUA + '''
        redis.call('HSET', KEYS[1], 'state', 'PENDING')
        return leases_publish(ARGV[1], ARGV[2], ARGV[3], ARGV[4], 0, 0)
    ''')
    script(keys=["my:record"], args=[prefix, queue, tag(task_id), message])
"""

from __future__ import annotations

from importlib import resources
from typing import Final


def source(name: str) -> str:
    """Return the text of one of our Lua files, by its name without the suffix."""
    return (resources.files("celery_leases") / "scripts" / f"{name}.lua").read_text(encoding="utf-8")


PUBLISH_LUA: Final = source("publish")
# leases_withdraw(prefix, queue, tag): takes away a message that waits or is delayed.
WITHDRAW_LUA: Final = source("withdraw")
# leases_discard(prefix, queue, tag): deletes a dead letter.
DISCARD_LUA: Final = source("discard")
# leases_redrive(prefix, queue, tag): puts a dead letter back to its queue. Needs the text of publish before it.
REDRIVE_LUA: Final = DISCARD_LUA + source("redrive")


def tag(task_id: str, retries: int = 0, replaced_task_nesting: int = 0) -> str:
    """Return the tag of one attempt of a task.

    `replaced_task_nesting` is part of it because ``self.replace()`` publishes the same task id and retry count again
    while the first message is still live.
    """
    return f"{task_id}:{retries}:{replaced_task_nesting}"
