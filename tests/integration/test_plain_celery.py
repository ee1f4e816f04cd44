"""A Celery application that knows nothing of Offload, run on it by its broker URL alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devstack.processes import Process
from devstack.servers import RedisServer
from devstack.waiting import until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plain-celery"


class Application:
    """A copy of the example beside a stack, with its processes."""

    def __init__(self, stack, folder: Path) -> None:
        self.stack = stack
        self.client = stack.client()
        self.folder = Path(shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__")))
        settings = {name: value for name, value in stack.environment.items() if name != "OFFLOAD_REDIS_URL"}
        self.environment = settings | {
            "BROKER_URL": f"offload+{stack.redis.url}",
            "RESULT_BACKEND": f"{stack.redis.url}",
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(stack.smtp.port),
            "PICTURES": str(self.folder),
            "PYTHONPATH": str(self.folder),
            "OFFLOAD_LEASE_SECONDS": "1.5",
            "OFFLOAD_SWEEP_INTERVAL_SECONDS": "0.3",
        }
        self.count = 0

    def celery(self, *arguments: str) -> Process:
        self.count += 1
        log = self.folder / f"{arguments[0]}-{self.count}.log"
        command = [sys.executable, "-m", "celery", "-A", "tasks", *arguments]
        process = Process(arguments[0], command, log, self.environment)
        self.stack.processes.append(process)
        return process

    def worker(self, *arguments: str) -> Process:
        process = self.celery("worker", "-c", "2", "-l", "INFO", "-n", f"w{self.count}@local", *arguments)
        process.wait_for(" ready.")
        return process

    def run(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=self.folder, env=os.environ | self.environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def python(self, code: str) -> str:
        imports = "import tasks\nfrom tasks import *\nfrom celery import chain, chord, group, signature\n"
        return self.run("-c", f"{imports}{code}").strip()

    def wait(self, task_id: str, seconds: float = 60) -> dict:
        return self.stack.wait(self.client, task_id, seconds)


@pytest.fixture
def application(offload, tmp_path) -> Application:
    offload.gateway()
    return Application(offload, tmp_path / "plain")


def test_the_example_runs_unchanged(application):
    shutil.copy(ROOT / "services/gateway/src/gateway/photo.jpg", application.folder / "photo.jpg")
    worker = application.worker()
    said = application.run("try_it.py", str(application.folder / "photo.jpg"), "ann@example.com")
    rows = {line[:12].strip(): line[13:] for line in said.splitlines()}
    assert rows["add"].startswith("SUCCESS  8 ")
    assert rows["slow report"].startswith("SUCCESS  '3 pages'")
    assert rows["group"].startswith("SUCCESS  [0, 2, 4, 6, 8]")
    assert rows["chord"].startswith("SUCCESS  20 ")
    assert rows["failure"].startswith("FAILURE  ValueError('on purpose')")
    ids = {name: row.split()[-1] for name, row in rows.items()}

    add = application.wait(ids["add"])
    assert (add["state"], add["result"], add["kind"]) == ("SUCCESS", {"value": 8}, "celery")
    assert application.wait(ids["slow report"])["steps"][0]["progress"] == {"done": 3, "total": 3}
    # The id that Celery gives for a chain is that of its last step.
    chain = application.wait(ids["chain"])
    assert [step["name"] for step in chain["steps"]] == ["tasks.resize", "tasks.thumbnail", "tasks.notify"]
    assert {step["state"] for step in chain["steps"]} == {"SUCCESS"}
    assert chain["result"]["value"].endswith("photo-resized-thumbnail.jpg")
    failed = application.wait(ids["failure"])
    assert (failed["state"], failed["error"]["code"]) == ("FAILURE", "task.failed")
    assert "on purpose" in failed["error"]["traceback"]
    until((application.folder / f"{ids['failure']}.error").exists, "the error callback")
    until(lambda: len(application.stack.subjects("ann@example.com")) == 2, "the mails")
    assert worker.stop() == 0


def test_the_six_states_are_those_of_the_record_and_of_its_own_results(application):
    sent = application.python(
        "print(*(one.id for one in (slow_report.delay(100), send_email.delay('ann@example.com', 'Hi'),"
        " add.delay('a', 1), add.apply_async((1, 2), countdown=3600), add.delay(1, 2),"
        " add.apply_async((1, 1), expires=0.1))))"
    ).split()
    report, mail, failing, later, revoked, expired = sent

    results = application.stack.redis.client()

    def states(task_id: str) -> tuple[str, str]:
        """The record's, and the one that `AsyncResult` reads: a process of its own would be too slow to see some."""
        own = json.loads(results.get(f"celery-task-meta-{task_id}") or '{"status": "PENDING"}')["status"]
        return application.client.get(f"/v1/tasks/{task_id}").json()["state"], own

    assert states(revoked) == ("PENDING", "PENDING")
    application.stack.smtp.stop()
    application.python(f"app.control.revoke('{revoked}')")
    worker = application.worker()
    until(lambda: states(report) in {("STARTED", "STARTED"), ("STARTED", "PROGRESS")}, "the report's start")
    assert application.wait(failing)["state"] == "FAILURE"
    assert states(failing) == ("FAILURE", "FAILURE")
    until(lambda: states(mail) == ("RETRY", "RETRY"), "the retry")
    assert application.wait(report)["state"] == "SUCCESS"
    assert states(report) == ("SUCCESS", "SUCCESS")
    assert application.wait(revoked)["reason"] == "task.revoked"
    assert states(revoked) == states(expired) == ("REVOKED", "REVOKED")
    shown = application.client.get(f"/v1/tasks/{later}").json()
    assert shown["state"] == "PENDING"
    assert shown["due_at"]
    # The fourth attempt was its last.
    assert application.wait(mail)["error"]["code"] == "task.failed"
    assert application.client.get(f"/v1/tasks/{mail}").json()["steps"][0]["attempts"] == 4
    assert worker.stop() == 0


def test_cancelling_a_chain_ends_it_in_the_record_and_for_those_who_wait(application):
    code = "r = chain(slow_report.s(15), add.si(1, 1), add.s(1)).delay(); print(r.parent.parent.id, r.parent.id, r.id)"
    first, second, last = application.python(code).split()
    application.worker()
    until(lambda: application.client.get(f"/v1/tasks/{last}").json()["state"] == "STARTED", "its start")
    assert application.client.delete(f"/v1/tasks/{second}").status_code == 202
    task = application.wait(first)
    assert (task["state"], [step["state"] for step in task["steps"]]) == ("REVOKED", ["SUCCESS", "REVOKED", "REVOKED"])
    asked = f"r = app.AsyncResult('{last}'); r.get(timeout=30, propagate=False); print(r.state)"
    assert application.python(asked) == "REVOKED"


POISON = """
import os, signal
from tasks import app, add

@app.task
def poison(path, number):
    with open(path, "a") as file:
        print(number, file=file)
    if os.path.exists(path + ".poisoned"):
        os.kill(os.getpid(), signal.SIGKILL)
    return number
"""


def test_what_kills_its_workers_becomes_a_dead_letter_and_comes_back(application):
    (application.folder / "poison.py").write_text(POISON)
    runs = application.folder / "runs"
    marker = application.folder / "runs.poisoned"
    marker.touch()
    sent = application.python(
        f"import poison; r = chain(add.s(1, 1), poison.poison.si('{runs}', 7), add.s(1)).delay(); "
        "print(r.parent.parent.id, r.parent.id, r.id)"
    )
    first, second, last = sent.split()
    application.worker("-I", "poison")

    def buried() -> dict | None:
        found = application.client.get("/v1/dead-letters").json()["dead_letters"]
        return found[0] if found and found[0]["reported"] else None

    letter = until(buried, "the dead letter")
    assert (letter["task_id"], letter["step"], letter["reason"]) == (first, 2, "delivery.limit")
    assert runs.read_text().split() == ["7"] * 3
    task = application.wait(last)
    assert (task["task_id"], task["state"], task["reason"]) == (first, "FAILURE", "delivery.limit")
    own = application.python(f"print(app.AsyncResult('{second}').state, app.AsyncResult('{last}').state)")
    assert own == "FAILURE FAILURE"
    marker.unlink()
    assert application.client.post(f"/v1/dead-letters/{letter['id']}/redrive").status_code == 200
    task = until(lambda: (found := application.wait(first))["state"] == "SUCCESS" and found, "its end")
    assert task["result"] == {"value": 8}
    assert application.python(f"print(app.AsyncResult('{last}').get(timeout=30))") == "8"


def test_a_chain_is_one_trace_and_its_record_knows_it(application):
    application.worker()
    last = application.python("print(chain(add.s(1, 1), add.s(1), add.s(1)).delay().id)")
    task = application.wait(last)

    def runs() -> bool:
        found = application.stack.otlp.trace(task["trace_id"])
        return sum(span.name == "run/tasks.add" for span in found) == 3

    until(runs, "the trace")


def test_beat_and_the_command_work_as_ever(application):
    application.worker()
    application.celery("beat", "-s", str(application.folder / "celerybeat-schedule"))
    log = application.stack.processes[-2]
    until(lambda: log.output().count("tasks.add") >= 2, "what beat sends")
    task_id = log.output().partition("tasks.add[")[2].partition("]")[0]
    assert application.wait(task_id)["result"] == {"value": 32}
    said = application.run("-m", "celery", "-A", "tasks", "offload")
    assert "broker          offload+redis://" in said
    assert "task_acks_late = True, not False" in said
    assert "task            tasks.slow_report" in said
    assert "pong" in application.run("-m", "celery", "-A", "tasks", "inspect", "ping")
    application.environment["BROKER_URL"] = application.stack.redis.url
    refused = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", "offload"], cwd=application.folder,
        env=os.environ | application.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (refused.returncode, "not adopted" in refused.stderr) == (1, True), refused.stderr


CRASHES = '''
import os, signal, time
from pathlib import Path
from offload_worker.adoption import results
from tasks import app

FOLDER = Path(os.environ["PICTURES"])

def dies(owner, name):
    """Let this process die the first time that it is about to call a method."""
    method = getattr(owner, name)
    def die(self, *args, **kwargs):
        if not (FOLDER / "died").exists():
            (FOLDER / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *args, **kwargs)
    setattr(owner, name, die)

{crash}

@app.task
def effect(number, name):
    while (FOLDER / "hold").exists():
        time.sleep(0.05)
    with (FOLDER / name).open("a") as file:
        print(number, file=file)
    return number + 1
'''


@pytest.mark.parametrize(
    "crash", ["dies(results.Records, 'mark_as_done')", "dies(results.RecordedBackend, 'mark_as_done')"]
)
def test_a_worker_that_dies_after_a_step_does_not_run_it_again(application, crash):
    """Its result is stored, or the next step published; the record, or the result, does not know of it yet."""
    (application.folder / "effects.py").write_text(CRASHES.replace("{crash}", crash))
    application.worker("-I", "effects")
    sent = application.python(
        "import effects; r = chain(effects.effect.s(1, 'a'), effects.effect.s('b'), effects.effect.s('c')).delay(); "
        "print(r.parent.parent.id, r.parent.id, r.id)"
    )
    first, second, last = sent.split()
    task = application.wait(last)
    assert (task["state"], task["result"]) == ("SUCCESS", {"value": 4})
    assert [(application.folder / name).read_text() for name in "abc"] == ["1\n", "2\n", "3\n"]
    assert (application.folder / "died").exists()
    assert task["steps"][0]["started_at"]
    for task_id, value in ((first, "2"), (second, "3"), (last, "4")):
        assert application.python(f"print(app.AsyncResult('{task_id}').get(timeout=30))") == value


def test_an_outage_of_its_result_backend_loses_and_repeats_nothing(application, tmp_path):
    results = RedisServer(tmp_path / "results").start()
    try:
        application.environment["RESULT_BACKEND"] = results.url
        (application.folder / "effects.py").write_text(CRASHES.replace("{crash}", ""))
        worker = application.worker("-I", "effects")
        first = application.python("print(add.delay(1, 1).id)")
        assert application.wait(first)["state"] == "SUCCESS"
        (application.folder / "hold").touch()
        task_id = application.python("import effects; print(effects.effect.delay(1, 'a').id)")
        until(lambda: application.client.get(f"/v1/tasks/{task_id}").json()["state"] == "STARTED", "its start")
        results.stop()
        (application.folder / "hold").unlink()
        until(lambda: "waiting for Redis" in worker.output(), "the worker to wait")
        assert application.client.get(f"/v1/tasks/{task_id}").json()["state"] == "STARTED"
        results.start()
        assert application.wait(task_id)["result"] == {"value": 2}
        assert application.python(f"print(app.AsyncResult('{task_id}').get(timeout=30))") == "2"
        assert (application.folder / "a").read_text() == "1\n"
        assert worker.stop() == 0
    finally:
        results.stop()


ADOPTED = """
import os, sys
from celery import Celery
from celery.apps.worker import Worker
from offload_worker import adopt

app = Celery("adopted", backend="file://" + os.environ["PICTURES"], set_as_current=True)
if "url" in sys.argv:
    app.conf.broker_url = "offload+" + os.environ["OFFLOAD_REDIS_URL"]
else:
    adopt(app)

@app.task(name="adopted.add")
def add(x, y):
    return x + y

if __name__ == "__main__":
    Worker(app=app, pool="solo", loglevel="INFO", redirect_stdouts=False).start()
"""


def adopted(stack, folder: Path, *arguments: str) -> Process:
    """Start the worker of an application that says so itself, without Celery's command line."""
    folder.mkdir(exist_ok=True)
    (folder / "adopted.py").write_text(ADOPTED)
    environment = stack.environment | {"PICTURES": str(folder), "PYTHONPATH": str(folder)}
    command = [sys.executable, str(folder / "adopted.py"), *arguments]
    process = Process("adopted", command, folder / f"adopted-{len(stack.processes)}.log", environment)
    stack.processes.append(process)
    return process


def add(stack, folder: Path) -> str:
    """Send a task from another process, and return what `AsyncResult` gives."""
    environment = os.environ | stack.environment | {"PICTURES": str(folder), "PYTHONPATH": str(folder)}
    code = "from adopted import add; r = add.delay(1, 2); print(r.id, r.get(timeout=60))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_application_can_be_adopted_in_code(offload, tmp_path):
    offload.gateway()
    for arguments in ((), ("url",)):
        worker = adopted(offload, tmp_path / "adopted", *arguments)
        worker.wait_for(" ready.")
        task_id, value = add(offload, tmp_path / "adopted").split()
        assert value == "3"
        task = offload.wait(offload.client(), task_id)
        assert (task["state"], task["result"]) == ("SUCCESS", {"value": 3})
        assert task["steps"][0]["started_at"]
        assert worker.stop() == 0
