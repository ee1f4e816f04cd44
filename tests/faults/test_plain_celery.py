"""A plain Celery application by its broker URL, whose workers are killed in the midst of chains and chords."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING

import pytest
from integration.test_plain_celery import Application

from devstack.waiting import until

from .report import Row
from .test_workflows import ended

if TYPE_CHECKING:
    from devstack.processes import Process

MODULE = """
import os
from tasks import app, total

@app.task
def count(number):
    with open(os.environ["PICTURES"] + "/runs", "a") as file:
        print(app.current_task.request.id, file=file)
    return number + 1
"""
SEND = """
import json, counting
from celery import chain, chord
for number in range({first}, {last}):
    sent = chain(*(counting.count.s(*((number,) if step == 0 else ())) for step in range(3))).delay()
    print(json.dumps([sent.id, sent.parent.parent.id, number + 3]), flush=True)
    if number % 3 == 0:
        sent = chord([counting.count.s(number) for _ in range(5)], total.s()).delay()
        print(json.dumps([sent.id, None, 5 * (number + 1)]), flush=True)
"""
RESULTS = """
import json, sys
for task_id, _, expected in json.loads(sys.argv[1]):
    found = app.AsyncResult(task_id).get(timeout=120, propagate=False)
    if found != expected:
        print(task_id, expected, found)
"""


@pytest.mark.full
def test_workers_of_a_plain_application_killed(stack, scale, tmp_path):
    kills, chains = scale.of(40, 4), scale.of(150, 18)
    chance = random.Random(scale.seed)
    stack.gateway()
    application = Application(stack, tmp_path / "plain")
    (application.folder / "counting.py").write_text(MODULE)

    def start() -> Process:
        name = f"k{application.count}@local"
        return application.celery("worker", "-c", "2", "-l", "INFO", "-I", "counting", "-n", name)

    workers = [start() for _ in range(2)]
    sent: list[list] = []
    for number in range(kills):

        def ready() -> list[Process]:
            return [one for one in workers if " ready." in one.output()]

        victim = chance.choice(until(ready, "a worker to be ready", seconds=90))
        first, last = (chains * part // kills for part in (number, number + 1))
        code = SEND.format(first=first, last=last)
        sent += map(json.loads, application.python(code).splitlines())
        time.sleep(chance.uniform(0, 0.3))  # anywhere in the midst of what was sent
        victim.kill()
        workers.remove(victim)
        workers.append(start())
    wrong = application.run("-c", f"from tasks import *\n{RESULTS}", json.dumps(sent)).splitlines()
    records = {task_id: stack.wait(application.client, task_id, seconds=120) for task_id, _, _ in sent}
    lost = [one for one, _, expected in sent if records[one]["result"] != {"value": expected}]
    until(stack.is_quiet, "every message to be settled", seconds=60)
    chords = sum(root is None for _, root, _ in sent)
    expected = (len(sent) - chords) + 6 * chords
    runs = (application.folder / "runs").read_text().split()
    Row(
        order=27.5,
        fault="workers of a plain Celery application `kill -9`, by `offload+redis://`",
        load=f"{len(sent) - chords} chains of three and {chords} chords of five",
        injected=kills,
        lost=len({*lost, *(line.split()[0] for line in wrong)}),
        doubled=ended(stack) - expected,
        seen=f"{len(runs) - len(set(runs))} of {len(set(runs))} functions run again; records and `AsyncResult` agree",
        seed=scale.seed,
    ).note()
    assert (lost, wrong) == ([], [])
    assert ended(stack) == expected
