"""The task store in memory: what the scripts of `offload_core` do to a record, over the same fields."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from celery_leases.publish import message_key
from offload_core import keys, records
from offload_core.messages import TASK_TYPE_VERSION
from offload_core.records import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offload_core.keys import Step
    from offload_core.records import NewTask
    from offload_worker.testing.broker import MemoryBroker


class MemoryTaskStore:
    """Task records in memory. Each method answers what the script of its name does, and changes all or nothing."""

    def __init__(self, broker: MemoryBroker) -> None:
        """Take the broker that messages are published to."""
        self.broker = broker
        self._records: dict[str, dict[str, str]] = {}

    def record(self, task_id: str) -> records.Record | None:
        """Return a task's record, or None."""
        fields = self._records.get(task_id, {})
        return records.decode(task_id, {name.encode(): value.encode() for name, value in fields.items()})

    def accept(self, task: NewTask) -> str:
        """Take a task: its record and the messages of its first stage. Returns ``accepted``."""
        if task.task_id in self._records:
            return "accepted"
        given = [str(one) for one in task.fields()]
        fields = dict(zip(given[::2], given[1::2], strict=True))
        created = {"state": "PENDING", "created_at": str(self.broker.now_ms), "count": str(len(task.steps))}
        self._records[task.task_id] = fields | created
        for one in task.envelopes:
            self.broker.publish(one.queue, one.message_key, one.text, one.due_ms)
        return "accepted"

    def start(self, step: Step, run: tuple[int, int]) -> str:
        """Ask whether a run of a step may begin: ``run:`` and the attempt that retries count from, or why not."""
        fields, n = self._records.get(step.task_id, {}), step.number
        refused = self._refusal(fields, n, run)
        if refused:
            return refused
        steps = json.loads(fields["steps"])
        if n > len(steps):
            return "record.missing"
        stage = steps[n - 1]["stage"]
        if "cancel_requested" in fields:
            self._withdraw_stage(step.task_id, steps, stage, "task.cancelled")
            self._end_task(step.task_id, "REVOKED", "task.cancelled")
            return "cancelled"
        expires_at = int(fields.get("expires_at", 0))
        if expires_at and f"{n}:started_at" not in fields and stage == 1 and expires_at <= self.broker.now_ms:
            self._expire(step.task_id, steps, n)
            return "expired"
        attempt, delivery = run
        fields |= {"state": "STARTED", f"{n}:state": "STARTED", f"{n}:attempt": str(attempt)}
        fields[f"{n}:delivery"] = str(delivery)
        fields.setdefault(f"{n}:started_at", str(self.broker.now_ms))
        return f"run:{fields.get(f'{n}:first_attempt', 0)}"

    def finish(self, step: Step, run: tuple[int, int], state: str, outcome: Any) -> str:  # noqa: ANN401 -- any JSON
        """Store how a step ended; with the last step of a stage the next one is published."""
        fields, n = self._records.get(step.task_id, {}), step.number
        refused = self._refusal(fields, n, run)
        if refused:
            return refused
        steps = json.loads(fields["steps"])
        stage = steps[n - 1]["stage"]
        is_last = stage == steps[-1]["stage"]
        self._end_step(fields, n, state, "result" if state == "SUCCESS" else "error", outcome)
        complete = all(
            fields.get(f"{number}:state") == "SUCCESS" for number, one in enumerate(steps, 1) if one["stage"] == stage
        )
        is_open = any(fields.get(f"{number}:state") not in TERMINAL for number in range(1, len(steps) + 1))
        if state == "SUCCESS" and is_last and complete:
            self._end_task(step.task_id, state, "")
        elif "cancel_requested" in fields and is_open:
            if not self._withdraw_stage(step.task_id, steps, stage, "task.cancelled"):
                self._end_task(step.task_id, "REVOKED", "task.cancelled")
        elif state != "SUCCESS":
            self._withdraw_stage(step.task_id, steps, stage, "previous_step_failed")
            self._end_task(step.task_id, state, "previous_step_failed")
        elif not is_last and complete:
            for number, one in enumerate(steps, 1):
                if one["stage"] == stage + 1:
                    self._publish_step(step.task_id, steps, number, 0)
        return "stored"

    def retry(self, step: Step, run: tuple[int, int], error: Mapping[str, Any], retry_at_ms: int) -> str:
        """Store that a step failed and is tried again. Its message is published by whoever calls."""
        fields, n = self._records.get(step.task_id, {}), step.number
        refused = self._refusal(fields, n, run)
        if refused:
            return refused
        fields |= {"state": "RETRY", f"{n}:state": "RETRY", f"{n}:error": json.dumps(error)}
        fields[f"{n}:retry_at"] = str(retry_at_ms)
        return "stored"

    def progress(self, step: Step, run: tuple[int, int], done: int, total: int) -> str:
        """Store how far a step is."""
        fields, n = self._records.get(step.task_id, {}), step.number
        refused = self._refusal(fields, n, run)
        if refused:
            return refused
        if fields.get(f"{n}:state") != "STARTED":
            return "fenced"
        fields[f"{n}:progress"] = json.dumps({"done": done, "total": total})
        return "stored"

    def cancel(self, task_id: str) -> str:
        """Cancel a task: ``revoked``, ``requested`` (at the end of what runs), ``finished`` or ``record.missing``."""
        fields = self._records.get(task_id)
        if fields is None:
            return "record.missing"
        if fields["state"] in TERMINAL:
            return "finished"
        steps = json.loads(fields["steps"])
        first = next(number for number in range(1, len(steps) + 1) if fields.get(f"{number}:state") not in TERMINAL)
        if not self._withdraw_stage(task_id, steps, steps[first - 1]["stage"], "task.cancelled"):
            self._end_task(task_id, "REVOKED", "task.cancelled")
            return "revoked"
        fields["cancel_requested"] = "1"
        return "requested"

    def expire(self) -> int:
        """End tasks that were not started in time; returns how many."""
        ended = 0
        for task_id, fields in self._records.items():
            steps = json.loads(fields["steps"])
            due = int(fields.get("expires_at", 0))
            has_begun = any(f"{number}:started_at" in fields for number in range(1, len(steps) + 1))
            if not due or due > self.broker.now_ms or fields["state"] in TERMINAL or has_begun:
                continue
            if not self._withdraw_stage(task_id, steps, 1, "task.expired", spare=1):
                self._expire(task_id, steps, 1)
                ended += 1
        return ended

    def redrive(self, queue: str, key: str) -> str:
        """Bring a dead letter back with its task: ``redriven``, or why not."""
        letter = self.broker.dead_letter(queue, key)
        if letter is None:
            return "dead_letter.missing"
        if not letter.reported:
            return "dead_letter.unreported"
        step = keys.step_of(key.rsplit(":", 2)[0])
        fields, n = self._records.get(step.task_id), step.number
        if fields is None:
            return "record.missing"
        if fields["state"] != "FAILURE" or fields.get(f"{n}:state") != "FAILURE":
            return "task.ended"
        steps = json.loads(fields["steps"])
        fields |= {"state": "PENDING", f"{n}:state": "PENDING", f"{n}:delivery": str(letter.deliveries)}
        fields[f"{n}:first_attempt"] = fields.get(f"{n}:attempt", "0")
        for name in (
            "finished_at",
            "cancel_requested",
            f"{n}:error",
            f"{n}:ended_at",
            f"{n}:retry_at",
            f"{n}:progress",
        ):
            fields.pop(name, None)
        for other, one in enumerate(steps, 1):
            if other == n or fields.get(f"{other}:state") != "REVOKED":
                continue
            for name in ("state", "error", "ended_at", "retry_at"):
                fields.pop(f"{other}:{name}", None)
            if one["stage"] == steps[n - 1]["stage"]:
                last = fields.get(f"{other}:attempt")
                attempt = int(last) + 1 if last is not None else 0
                fields |= {f"{other}:attempt": str(attempt), f"{other}:first_attempt": str(attempt)}
                fields[f"{other}:delivery"] = "0"
                self._publish_step(step.task_id, steps, other, attempt)
        self.broker.redrive(queue, key)
        return "redriven"

    # -- what the scripts share

    @staticmethod
    def _refusal(fields: Mapping[str, str], n: int, run: tuple[int, int]) -> str | None:
        if "state" not in fields:
            return "record.missing"
        if fields["state"] in TERMINAL or fields.get(f"{n}:state") in TERMINAL:
            return "ended"
        last = int(fields.get(f"{n}:attempt", 0)), int(fields.get(f"{n}:delivery", 0))
        return "fenced" if run < last else None

    def _end_step(self, fields: dict[str, str], n: int, state: str, name: str, outcome: Any) -> None:  # noqa: ANN401 -- any JSON
        fields |= {f"{n}:state": state, f"{n}:ended_at": str(self.broker.now_ms), f"{n}:{name}": json.dumps(outcome)}

    def _end_task(self, task_id: str, state: str, reason: str) -> None:
        fields = self._records[task_id]
        for number in range(1, int(fields["count"]) + 1):
            if fields.get(f"{number}:state") not in TERMINAL:
                self._end_step(fields, number, "REVOKED", "error", {"code": reason})
        fields |= {"state": state, "finished_at": str(self.broker.now_ms)}

    def _expire(self, task_id: str, steps: list[dict[str, Any]], n: int) -> None:
        self._withdraw_stage(task_id, steps, 1, "task.expired", spare=n)
        error = {"code": "task.expired", "message": "the task was not started in time"}
        self._end_step(self._records[task_id], n, "FAILURE", "error", error)
        self._end_task(task_id, "FAILURE", "task.expired")

    def _withdraw_stage(
        self, task_id: str, steps: list[dict[str, Any]], stage: int, reason: str, *, spare: int = 0
    ) -> int:
        fields, under_way = self._records[task_id], 0
        for n, one in enumerate(steps, 1):
            if one["stage"] != stage or fields.get(f"{n}:state") in TERMINAL:
                continue
            attempt = max(int(fields.get(f"{n}:attempt", 0)), int(fields.get(f"{n}:first_attempt", 0)))
            taken = self.broker.withdraw(one["queue"], message_key(one["id"], attempt))
            if fields.get(f"{n}:state") == "RETRY":
                taken = self.broker.withdraw(one["queue"], message_key(one["id"], attempt + 1))
            if not taken:
                under_way += 1
            elif n != spare:
                self._end_step(fields, n, "REVOKED", "error", {"code": reason})
        return under_way

    def _publish_step(self, task_id: str, steps: list[dict[str, Any]], n: int, attempt: int) -> None:
        fields, step = self._records[task_id], steps[n - 1]
        arguments = [json.loads(fields[f"{n}:message"])]
        before = [
            json.loads(fields[f"{number}:result"])
            for number, one in enumerate(steps, 1)
            if one["stage"] == step["stage"] - 1
        ]
        if before:
            arguments.insert(0, before[0] if len(before) == 1 else before)
        headers = json.loads(fields.get("headers", "{}"))
        headers |= {"task": step["name"], "id": step["id"], "retries": attempt, "root_id": task_id}
        if "version" in step:
            headers[TASK_TYPE_VERSION] = step["version"]
        body = base64.b64encode(json.dumps([arguments, {}, {}]).encode()).decode()
        message = json.dumps({"body": body, "headers": headers})
        self.broker.publish(step["queue"], message_key(step["id"], attempt), message)
