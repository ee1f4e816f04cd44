"""What a client was told, kept on disk outside of Redis, and what became of it: the invariants.

I1  every id that was answered with 202 ends as SUCCESS, FAILURE or REVOKED
I2  for each task: one mail, and one version of each output
I3  nothing that has ended changes again unless it is redriven, and no step is delivered more often than it may be
I4  a post under fault is answered with 202, or with 429 or 503 and Retry-After
I5  all spans of a task stand in one trace
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import random
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from integration.conftest import JPEG, PREFIX, photo
from PIL import Image

from devstack.waiting import until
from offload_core import events, keys, records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from .conftest import Stack

REFUSALS = frozenset({429, 503})
# Its own limit, and that for deliveries which end together with others': see the broker's options.
MOST_DELIVERIES = 3 + 10


@dataclass(frozen=True)
class Post:
    """One request, and the effects that it must have, once."""

    path: str
    mails_to: str = ""
    outputs: int = 0
    params: dict[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    json: dict[str, Any] | None = None


def image(number: int | str, content: bytes, *, chain: bool) -> Post:
    """A photo to be resized; as a chain also a thumbnail, and a mail."""
    if not chain:
        return Post("/v1/images", outputs=1, params={"width": 64}, content=content)
    to = f"t{number}@example.com"
    return Post("/v1/images", to, 2, {"width": 64, "thumbnail": 32, "notify": to}, content)


def mail(number: int, **options: Any) -> Post:
    """A mail to an address of its own."""
    to = f"t{number}@example.com"
    return Post("/v1/emails", to, json={"to": to, "subject": "Hello", "text": "Hello."} | options)


class Client:
    """Posts, and writes down each answer before it believes it. Repeats with the same key until it is accepted."""

    def __init__(
        self,
        url: str,
        ledger: Path,
        *,
        at_once: int = 16,
        per_second: float = 0,
        name: str = "c",
        headers: dict[str, str] | None = None,
    ) -> None:
        self._url = url
        self._ledger = ledger
        self._at_once = at_once
        self._per_second = per_second
        self._name = name
        self._headers = headers or {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        # Everything that was answered: status codes, and 0 where no answer came.
        self.answers: Counter[int] = Counter()
        self.without_retry_after = 0
        # Seconds to the answer 202, of the request that got it.
        self.accept_seconds: list[float] = []

    def post(self, posts: Sequence[Post], *, give_up_seconds: float = 120) -> None:
        """Post all of them, and wait until the last one is accepted."""
        asyncio.run(self._run(iter(posts), give_up_seconds))

    def start(
        self,
        make: Callable[[int], Post],
        count: int,
        *,
        more: Callable[[], bool] = lambda: False,
        give_up_seconds: float = 120,
    ) -> None:
        """Post so many in the background; and then go on, a hundred a second, as long as there are to be `more`."""

        def posts() -> Iterator[Post]:
            for number in itertools.count():
                if number >= count:
                    if not more():
                        return
                    time.sleep(0.01)
                yield make(number)

        def run() -> None:
            try:
                asyncio.run(self._run(posts(), give_up_seconds))
            except Exception as error:  # noqa: BLE001 -- `join` raises it
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def join(self, seconds: float = 300) -> None:
        """Wait until all are accepted."""
        assert self._thread is not None
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"posts are still on their way: {self.answers}"
        if self._error is not None:
            raise self._error

    @property
    def is_posting(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def accepted(self) -> dict[str, dict[str, Any]]:
        """Return what the ledger has: task id -> what is expected of it."""
        if not self._ledger.exists():
            return {}
        lines = [json.loads(line) for line in self._ledger.read_text().splitlines()]
        return {line["task_id"]: line for line in lines if line["by"] == self._name}

    async def _run(self, posts: Iterator[Post], give_up_seconds: float) -> None:
        limits = httpx.Limits(max_connections=self._at_once, keepalive_expiry=2)
        numbered = enumerate(posts)
        began = time.monotonic()
        async with httpx.AsyncClient(base_url=self._url, timeout=10, limits=limits, headers=self._headers) as client:

            async def in_turn() -> None:
                for number, post in numbered:
                    if self._per_second:
                        await asyncio.sleep(max(began + number / self._per_second - time.monotonic(), 0))
                    await self._one(client, number, post, give_up_seconds)

            await asyncio.gather(*(in_turn() for _ in range(self._at_once)))

    async def _one(self, client: httpx.AsyncClient, number: int, post: Post, give_up_seconds: float) -> None:
        headers = {"Idempotency-Key": f"{self._name}-{number}"} | (JPEG if post.content is not None else {})
        deadline = time.monotonic() + give_up_seconds
        while True:
            began = time.monotonic()
            try:
                answer = await client.post(
                    post.path, params=post.params, content=post.content, json=post.json, headers=headers
                )
            except httpx.TransportError:
                self.answers[0] += 1
            else:
                self.answers[answer.status_code] += 1
                if answer.status_code == 202:
                    self.accept_seconds.append(time.monotonic() - began)
                    self._note(number, answer.json()["task_id"], post)
                    return
                assert answer.status_code in REFUSALS, f"{answer.status_code}: {answer.text}"
                if "Retry-After" not in answer.headers:
                    self.without_retry_after += 1
            assert time.monotonic() < deadline, f"not accepted within {give_up_seconds} s: {self.answers}"
            await asyncio.sleep(0.2)

    def _note(self, number: int, task_id: str, post: Post) -> None:
        line = {"by": self._name, "number": number, "task_id": task_id, "to": post.mails_to, "outputs": post.outputs}
        with self._ledger.open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Verdict:
    """What the invariants say of a run."""

    tasks: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    changed_after_the_end: list[str] = field(default_factory=list)
    too_often: list[str] = field(default_factory=list)
    traces: int = 0
    split_traces: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    # Runs after the first, of a step.
    again: int = 0
    recovery: list[float] = field(default_factory=list)

    def check(self) -> None:
        """Fail unless all of them hold."""
        broken = {
            "I1, I2 lost": self.lost,
            "I2 doubled": self.doubled,
            "I3 changed after the end": self.changed_after_the_end,
            "I3 delivered too often": self.too_often,
            "I5 split traces": self.split_traces,
        }
        assert not any(broken.values()), {name: found[:5] for name, found in broken.items() if found}


def judge(
    stack: Stack, *clients: Client, kills: Sequence[float] = (), seconds: float = 120, may_fail: bool = False
) -> Verdict:
    """Wait until all that was accepted has ended, and look at what is there. `kills` are times since the epoch.

    With `may_fail` a task that ended as FAILURE or REVOKED needs no effects.
    """
    expected = {task_id: line for client in clients for task_id, line in client.accepted().items()}
    redis = stack.redis.client()
    open_ids = _wait_for_all(stack, expected, seconds)
    verdict = Verdict(tasks=len(expected), lost=[f"{one} has not ended" for one in open_ids])
    mails = stack.mails()
    spans = _traces(stack)
    for task_id, line in expected.items():
        record = records.decode(task_id, redis.hgetall(keys.record(PREFIX, task_id)))
        if record is None or record.state not in records.TERMINAL:
            continue
        verdict.states[record.state] += 1
        verdict.codes.update(step.error["code"] for step in record.steps if step.state == "FAILURE" and step.error)
        _effects(verdict, stack, record, line, mails, may_fail=may_fail)
        _events(verdict, redis.xrange(keys.events(PREFIX, task_id)), task_id, kills)
        if any(step.delivery > MOST_DELIVERIES for step in record.steps):
            verdict.too_often.append(task_id)
        if task_id in spans:
            verdict.traces += 1
            if len(spans[task_id]) > 1 or (record.trace_id and record.trace_id not in spans[task_id]):
                verdict.split_traces.append(task_id)
    return verdict


def _wait_for_all(stack: Stack, task_ids: Iterable[str], seconds: float) -> set[str]:
    """Wait until all of them have ended and no message is left; returns those that have not in time: they are lost."""
    redis = stack.redis.client()
    open_ids = set(task_ids)

    def all_ended() -> bool:
        for task_id in list(open_ids):
            state = redis.hget(keys.record(PREFIX, task_id), "state")
            if state is not None and state.decode() in records.TERMINAL:
                open_ids.discard(task_id)
        return not open_ids

    with contextlib.suppress(TimeoutError):
        until(all_ended, "every accepted task to end", seconds=seconds, pause_seconds=0.5)
        until(stack.is_quiet, "every message to be settled", seconds=60)
    return open_ids


def _traces(stack: Stack) -> dict[str, set[str]]:
    """Return the trace ids of all spans of each task."""
    spans: dict[str, set[str]] = defaultdict(set)
    for span in stack.otlp.spans:
        step_id = span.attributes.get("messaging.message.id")
        if isinstance(step_id, str):
            spans[keys.step_of(step_id).task_id].add(span.trace_id)
    return spans


def _effects(
    verdict: Verdict,
    stack: Stack,
    record: records.Record,
    line: dict[str, Any],
    mails: Counter[str],
    *,
    may_fail: bool,
) -> None:
    task_id, ended_well = record.task_id, record.state == "SUCCESS"
    if not ended_well and not may_fail:
        verdict.lost.append(f"{task_id} is {record.state}: {verdict.codes}")
        return
    outputs = stack.outputs(task_id)
    if len(outputs) != len({name.partition("-")[0] for name in outputs}):
        verdict.doubled.append(f"{task_id} has {outputs}")
    if ended_well and len(outputs) < line["outputs"]:
        verdict.lost.append(f"{task_id} has only {outputs}")
    if line["to"]:
        if ended_well and not mails[line["to"]]:
            verdict.lost.append(f"{task_id}: no mail")
        if mails[line["to"]] > 1:
            verdict.doubled.append(f"{task_id}: {mails[line['to']]} mails")


def _events(
    verdict: Verdict, stream: list[tuple[bytes, dict[bytes, bytes]]], task_id: str, kills: Sequence[float]
) -> None:
    has_ended = False
    starts: dict[int, list[float]] = defaultdict(list)
    for name, event in stream:
        kind = event[b"type"].decode()
        if kind == "task.redriven":
            has_ended = False
        if has_ended:
            verdict.changed_after_the_end.append(f"{task_id}: {event}")
        if kind in events.ENDS:
            has_ended = True
        if kind == "step.started":
            number = json.loads(event[b"data"])["step"]["number"]
            starts[number].append(int(name.partition(b"-")[0]) / 1000)
    for times in starts.values():
        for first, again in itertools.pairwise(times):
            verdict.again += 1
            # The first kill after a start is the one that ended it: a run is shorter than the pause between two kills.
            killed = next((kill for kill in sorted(kills) if first <= kill <= again), None)
            if killed is not None:
                verdict.recovery.append(again - killed)


def noisy_photo(width: int, height: int) -> bytes:
    """A photo whose pixels cannot be guessed, so that resizing it takes its time."""
    pixels = random.Random(7).randbytes(width * height * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (width, height), pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def every(seconds: float, act: Callable[[], None], times: int) -> None:
    """Act so many times, with a pause after each."""
    for _ in range(times):
        act()
        time.sleep(seconds)  # not a wait: faults come at intervals


SMALL_PHOTO = photo(32, 24)
