"""Publishing without kombu or Celery, for processes that have no use for a worker's imports.

`load` puts the Lua function ``leases_publish`` before a script of one's own, which can then write a record and publish
its message in one atomic step::

    script = client.register_script(load("celery_leases/scripts/publish.lua") + '''
        redis.call('HSET', KEYS[1], 'state', 'PENDING')
        return leases_publish(ARGV[1], ARGV[2], ARGV[3], ARGV[4], 0, 0)
    ''')
    script(keys=["my:record"], args=[prefix, queue, message_key(task_id), message])
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


_INCLUDE: Final = re.compile(r"^--- @include (\S+)\n", re.MULTILINE)


def load(path: str) -> str:
    """Return the text of a Lua file, named as ``package/folder/file.lua``, with what it includes.

    A line ``--- @include package/folder/file.lua`` at its head puts that file before it; each file comes once, however
    often it is named. A script of another package may include ours: ``publish.lua``, ``withdraw.lua``,
    ``reschedule.lua``, ``depth.lua``, ``dead_letter.lua``, ``discard.lua``, ``redrive.lua``, ``pause.lua`` and
    ``limit.lua`` define functions whose names begin with ``leases_``.
    """
    return "".join(_parts(path, set()))


def _parts(path: str, done: set[str]) -> Iterator[str]:
    if path in done:
        return
    done.add(path)
    package, _, rest = path.partition("/")
    text = resources.files(package).joinpath(rest).read_text(encoding="utf-8")
    for included in _INCLUDE.findall(text):
        yield from _parts(included, done)
    yield _INCLUDE.sub("", text)


def message_key(task_id: str, retries: int = 0, replaced_task_nesting: int = 0) -> str:
    """Return the message key of one attempt of a task.

    `replaced_task_nesting` is part of it because ``self.replace()`` publishes the same task id and retry count again
    while the first message is still live.
    """
    return f"{task_id}:{retries}:{replaced_task_nesting}"
