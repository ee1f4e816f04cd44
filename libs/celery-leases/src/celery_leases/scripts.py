"""The broker's Lua scripts, and how one is run: by its digest, and by its text when Redis has forgotten it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from celery_leases.publish import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis
    import redis.asyncio

Argument = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the digest that Redis knows the script by."""
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)

    def __call__(self, client: redis.Redis, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:  # noqa: ANN401 -- Redis answers what the script returns
        """Run the script; a Redis that has forgotten it (restarted, flushed) is given its text."""
        run: Callable[..., Any] = client.execute_command
        try:
            return run(*self.command(keys, arguments))
        except NoScriptError:
            return run(*self.command(keys, arguments, full=True))

    async def run_async(self, client: redis.asyncio.Redis, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:  # noqa: ANN401 -- Redis answers what the script returns
        """Run the script on an asynchronous client, in one round trip unless Redis has forgotten it."""
        run: Callable[..., Any] = client.execute_command
        try:
            return await run(*self.command(keys, arguments))
        except NoScriptError:
            return await run(*self.command(keys, arguments, full=True))

    def command(self, keys: Sequence[str], arguments: Sequence[Argument], *, full: bool = False) -> list[Argument]:
        """Return the command that runs the script: by digest, or in `full` after a NOSCRIPT."""
        how: list[Argument] = ["EVAL", self.text] if full else ["EVALSHA", self.digest]
        return [*how, len(keys), *keys, *arguments]


def _script(name: str, call: str = "") -> Script:
    return Script(load(f"celery_leases/scripts/{name}.lua") + call)


PUBLISH = _script(
    "publish", "return leases_publish(ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]))"
)
WITHDRAW = _script("withdraw", "return leases_withdraw(ARGV[1], ARGV[2], ARGV[3])")
REDRIVE = _script("redrive", "return leases_redrive(ARGV[1], ARGV[2], ARGV[3])")
DISCARD = _script("discard", "return leases_discard(ARGV[1], ARGV[2], ARGV[3])")
PAUSE = _script("pause", "return leases_pause(ARGV[1], ARGV[2], ARGV[3], ARGV[4])")
RESUME = _script("pause", "return leases_resume(ARGV[1], ARGV[2])")
LIMIT = _script("limit", "leases_limit(ARGV[1], ARGV[2], cjson.decode(ARGV[3]))")
POP = _script("pop")
GIVE_BACK = _script("give_back")
SETTLE = _script("settle")
HAND_BACK = _script("hand_back")
RENEW = _script("renew")
BEGIN_SWEEP = _script("begin_sweep")
SWEEP = _script("sweep")
REVOKE = _script("revoke")
REPORT = _script("report")
REPORTED = _script("reported")
PURGE = _script("purge")
DELETE = _script("delete", "leases_delete(table.remove(ARGV, 1), table.remove(ARGV, 1), ARGV)")
