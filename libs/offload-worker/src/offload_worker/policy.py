"""What happens when a step fails, or does not end: retries with a growing pause, and time limits."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

from offload_core.errors import BlockedError, StepError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from offload_core.settings import WorkerSettings

JITTER = 0.1
# A day: as long as the API lets a post ask for.
BACKOFF_LIMIT_SECONDS = 86_400.0


class TaskOptions(TypedDict, total=False):
    """What `Worker.task` may say of a task type. What is left out comes from the worker's settings."""

    # How often a step is run at most, the first time included. Default: `OFFLOAD_MAX_RETRIES` and one more.
    max_attempts: int
    # The pause before the second attempt, doubled for each further one; or each pause by itself.
    backoff_seconds: float | tuple[float, ...]
    backoff_limit_seconds: float
    # How much longer a pause may be by chance: 0.1 is a tenth.
    jitter: float
    # Exceptions, and codes of errors, that are retried although they are no `TemporaryError`.
    retry_on: tuple[type[BaseException] | str, ...]
    # Those that are not retried although they are.
    give_up_on: tuple[type[BaseException] | str, ...]
    # In a pool of processes the soft limit raises SoftTimeLimitExceeded in the function, and the hard one ends its
    # process. In a pool of threads nothing can end a function: at its limit the worker hands back the rest and exits.
    soft_time_limit_seconds: float
    hard_time_limit_seconds: float
    # How many runs of this task type one worker has at once. What is too much waits for a moment, and takes no slot.
    concurrency: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What happens when a step fails, or does not end.

    A `TemporaryError`, or what `retry_on` names, is tried again after each of the `pauses_seconds`, up to `jitter` of
    it longer (`jitter_both_ways`: or shorter). One that is left after the last of them goes to the dead letters, from
    where it can be redriven. Any other error, and what `give_up_on` names, is final. `deadline_seconds` ends the whole
    worker, for pools without time limits.
    """

    pauses_seconds: tuple[float, ...]
    deadline_seconds: float | None = None
    jitter: float = JITTER
    retry_on: tuple[type[BaseException] | str, ...] = ()
    give_up_on: tuple[type[BaseException] | str, ...] = ()
    soft_time_limit_seconds: float | None = None
    hard_time_limit_seconds: float | None = None
    concurrency: int | None = None
    jitter_both_ways: bool = False

    @classmethod
    def of(cls, settings: WorkerSettings, deadline_seconds: float | None = None) -> Policy:
        """Return the policy of the settings: so many retries, each pause twice the one before."""
        return cls(backoff(settings.max_retries + 1, settings.retry_backoff_seconds), deadline_seconds)

    @classmethod
    def with_options(cls, settings: WorkerSettings, options: TaskOptions, pool: str) -> Policy:
        """Return the policy of the settings, but for what a task type says itself.

        Raises:
            ValueError: for an option that cannot be.

        """
        pause = options.get("backoff_seconds", settings.retry_backoff_seconds)
        if isinstance(pause, tuple):
            attempts = options.get("max_attempts", len(pause) + 1)
            pauses = (*pause[: attempts - 1], *pause[-1:] * (attempts - 1 - len(pause)))
        else:
            attempts = options.get("max_attempts", settings.max_retries + 1)
            pauses = backoff(attempts, pause, options.get("backoff_limit_seconds", BACKOFF_LIMIT_SECONDS))
        if attempts < 1 or any(one < 0 for one in pauses) or options.get("concurrency", 1) < 1:
            raise ValueError("max_attempts and concurrency must be at least 1, and backoff_seconds not negative")
        soft, hard = options.get("soft_time_limit_seconds"), options.get("hard_time_limit_seconds")
        if soft is not None and hard is None:
            # As far apart as the settings have them: so long a function may take to end when it is asked to.
            hard = soft + settings.hard_time_limit_seconds - settings.soft_time_limit_seconds
        if soft is None and hard is not None:
            soft = hard
        if soft is not None and hard is not None and soft > hard:
            raise ValueError("soft_time_limit_seconds must not be more than hard_time_limit_seconds")
        return cls(
            pauses,
            hard if pool != "prefork" else None,
            options.get("jitter", JITTER),
            options.get("retry_on", ()),
            options.get("give_up_on", ()),
            soft,
            hard,
            options.get("concurrency"),
        )

    def for_task(self, retry: Mapping[str, Any] | None) -> Policy:
        """Return the policy with what the post of a task asks for: the option ``retry`` of the API."""
        if not retry:
            return self
        schedule = retry.get("schedule", "exponential")
        limit = float(retry.get("cap_seconds", BACKOFF_LIMIT_SECONDS))
        if isinstance(schedule, list):
            attempts = int(retry.get("max_attempts", len(schedule) + 1))
            pauses = tuple(float(schedule[min(number, len(schedule) - 1)]) for number in range(attempts - 1))
        else:
            attempts = int(retry.get("max_attempts", len(self.pauses_seconds) + 1))
            first = retry.get("base_seconds", self.pauses_seconds[0] if self.pauses_seconds else 1)
            pauses = backoff(attempts, float(first), limit)
        return replace(
            self,
            pauses_seconds=tuple(min(pause, limit) for pause in pauses),
            jitter=float(retry.get("jitter", self.jitter)),
            retry_on=tuple(retry.get("retry_on", self.retry_on)),
            give_up_on=tuple(retry.get("give_up_on", self.give_up_on)),
        )

    def may_heal(self, error: BaseException) -> bool:
        """Return whether a step that failed with this error is tried again, by itself or by somebody."""
        if _is_one_of(error, self.give_up_on):
            return False
        return isinstance(error, (TemporaryError, BlockedError)) or _is_one_of(error, self.retry_on)

    def pause_seconds(self, retries: int, error: BaseException | None = None) -> float | None:
        """Return how long to wait before another try, after so many; None when there is none left.

        An `error` that says when to come back is heeded where that is later, up to a day.
        """
        if retries >= len(self.pauses_seconds) or isinstance(error, BlockedError):
            return None
        asked = error.retry_after_seconds if isinstance(error, TemporaryError) else None
        pause = with_jitter(self.pauses_seconds[retries], self.jitter, shorter=self.jitter_both_ways)
        return max(pause, min(asked or 0, BACKOFF_LIMIT_SECONDS))

    def as_entry(self) -> dict[str, Any]:
        """Return what the catalogue shows of it."""
        return {
            "max_attempts": len(self.pauses_seconds) + 1,
            "schedule": list(self.pauses_seconds),
            "jitter": self.jitter,
            "retry_on": [_name(one) for one in self.retry_on],
            "give_up_on": [_name(one) for one in self.give_up_on],
        }


def backoff(attempts: int, first_seconds: float, limit_seconds: float = BACKOFF_LIMIT_SECONDS) -> tuple[float, ...]:
    """Return the pauses between so many attempts, each twice the one before, up to the limit."""
    # No float overflows: twice the limit is the limit.
    return tuple(min(first_seconds * 2.0 ** min(number, 64), limit_seconds) for number in range(attempts - 1))


def with_jitter(seconds: float, jitter: float = JITTER, *, shorter: bool = False) -> float:
    """Return the pause, up to a share of it longer by chance: what failed together does not come back together.

    With `shorter` it may be shorter by as much, too.
    """
    return seconds * random.uniform(1 - jitter if shorter else 1, 1 + jitter)  # noqa: S311 -- jitter is no secret


def _is_one_of(error: BaseException, named: Iterable[type[BaseException] | str]) -> bool:
    code = error.code if isinstance(error, StepError) else "task.failed"
    return any(isinstance(error, one) if isinstance(one, type) else one in {code, "*"} for one in named)


def _name(one: type[BaseException] | str) -> str:
    return one if isinstance(one, str) else one.__name__
