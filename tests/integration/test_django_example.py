"""The Django example: its outbox loses and doubles nothing, and its backend does what django.tasks asks."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devstack import packages
from devstack.processes import Process
from devstack.waiting import until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "django"


class Shop:
    """A copy of the project beside a stack, with its processes."""

    def __init__(self, stack, folder: Path) -> None:
        self.stack = stack
        self.folder = Path(shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3")))
        self.environment = {
            "OFFLOAD": stack.url,
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "PYTHONPATH": str(self.folder),
            "SHOP_DATABASE": str(folder / "shop.sqlite3"),
            "CELERY_BROKER_URL": f"offload+{stack.redis.url}",
        }
        self.count = 0

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=self.folder, env=os.environ | self.environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, code: str) -> str:
        return self.manage("shell", "--no-imports", "-v", "0", "-c", code).strip()

    def start(self, name: str, *command: str) -> Process:
        self.count += 1
        log = self.folder / f"{name}-{self.count}.log"
        process = Process(name, [sys.executable, *command], log, self.environment)
        self.stack.processes.append(process)
        return process

    def relay(self) -> Process:
        return self.start("relay", str(self.folder / "manage.py"), "relay_outbox", "--pause-seconds", "0.05")


@pytest.fixture
def shop(offload, tmp_path) -> Shop:
    offload.gateway()
    made = Shop(offload, tmp_path / "project")
    made.manage("migrate", "-v", "0")
    settings = made.environment | {"OFFLOAD_CONCURRENCY": "2"}
    made.worker = offload.own_worker("offload_outbox.worker:worker", made.folder, settings)
    client = offload.client()
    until(lambda: client.get("/v1/task-types/django.run.v1").status_code == 200, "its task type")
    return made


RESULTS = """
import time
from datetime import timedelta
from django.db import transaction
from django.tasks import TaskResultStatus
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.utils import timezone
from orders.services import place
from orders import background as tasks

def end(result):
    deadline = time.monotonic() + 60
    while not result.is_finished and time.monotonic() < deadline:
        time.sleep(0.1)
        result.refresh()
    return result

order = place("ann@example.com", mail=True)
result = tasks.confirm.enqueue(order.pk)
assert result.status == TaskResultStatus.READY and result.enqueued_at and not result.is_finished
assert end(result).return_value == "ann@example.com"
assert result.started_at <= result.finished_at and result.attempts == 1 and result.worker_ids
assert tasks.confirm.get_result(result.id).return_value == "ann@example.com"
order.refresh_from_db()
assert order.confirmed_at
assert end(tasks.describe.enqueue(order_id=order.pk)).return_value == {"order": order.pk, "attempt": 1}
assert end(tasks.echo.enqueue("a")).return_value == "a"
failed = end(tasks.fail.enqueue())
assert failed.status == TaskResultStatus.FAILED
assert failed.errors[0].exception_class is LookupError and "on purpose" in failed.errors[0].traceback
left = end(tasks.leave.enqueue())
assert left.status == TaskResultStatus.FAILED and left.errors[0].exception_class is SystemExit
later = tasks.echo.using(run_after=timezone.now() + timedelta(hours=1)).enqueue("later")
for wrong in (lambda: tasks.echo.using(priority=5), lambda: tasks.echo.using(queue_name="other")):
    try:
        wrong()
    except InvalidTask:
        continue
    raise AssertionError("it is not valid")
try:
    tasks.echo.get_result("nothing")
except TaskResultDoesNotExist:
    pass
try:
    with transaction.atomic():
        rolled_back = tasks.echo.enqueue("never")
        raise KeyError
except KeyError:
    pass
try:
    tasks.echo.get_result(rolled_back.id)
except TaskResultDoesNotExist:
    print("all of it", later.id)
"""


def test_the_backend_does_what_django_tasks_asks(shop):
    shop.stack.worker("mail_worker")
    relay = shop.relay()
    said = shop.python(RESULTS)
    assert said.startswith("all of it"), said
    until(lambda: shop.stack.subjects("ann@example.com") == ["Order 1"], "the mail")
    assert shop.stack.client().get("/v1/queues/django").json()["delayed"] == 1
    assert relay.stop() == 0


UNNOTED = """
import json
from offload_outbox.models import Entry
from orders import background as tasks
entry = Entry.objects.get(id=tasks.describe.enqueue(order_id=7).id)
print(json.dumps({"key": str(entry.id), "body": entry.body}))
"""


def test_a_task_knows_its_attempt_before_the_relay_has_noted_its_id(shop):
    entry = json.loads(shop.python(UNNOTED))
    client = shop.stack.client()
    posted = client.post("/v1/tasks", json=entry["body"], headers={"Idempotency-Key": entry["key"]}).json()
    task = shop.stack.wait(client, posted["task_id"])
    assert task["result"]["return_value"] == {"order": 7, "attempt": 1}


CELERY = """
from django.db import transaction
from orders.models import Order
from orders.receipts import place_with_receipt
from orders.tasks import receipt

sent = []
delay = receipt.delay
receipt.delay = lambda *args: sent.append(delay(*args)) or sent[-1]
try:
    with transaction.atomic():
        place_with_receipt("never@example.com")
        raise KeyError
except KeyError:
    assert sent == []
order = place_with_receipt("ann@example.com")
assert sent[0].get(timeout=60) == f"receipt of order {order.pk} of ann@example.com"
print(sent[0].id)
"""


@pytest.mark.parametrize("version", ["installed", "5.2"])
def test_the_projects_celery_tasks_and_outbox_run_by_their_settings_alone(offload, tmp_path, version):
    offload.gateway()
    offload.worker("mail_worker")
    shop = Shop(offload, tmp_path / "project")
    if version != "installed":
        older = packages.wheel(f"django~={version}.0")
        shop.environment["PYTHONPATH"] += f":{older}"
        # The backend of django.tasks is not for it.
        settings = shop.folder / "shop" / "settings.py"
        settings.write_text(settings.read_text().partition("\nTASKS =")[0])
        assert shop.manage("version").startswith(version)
    shop.manage("migrate", "-v", "0")
    shop.environment |= {name: value for name, value in offload.environment.items() if name.startswith("OTEL")}
    worker = shop.start("celery", "-m", "celery", "-A", "shop", "worker", "-c", "1", "-l", "INFO", "-n", "django@local")
    worker.wait_for(" ready.")
    assert ". orders.tasks.receipt" in worker.output()
    task = offload.wait(offload.client(), shop.python(CELERY))
    assert (task["state"], task["steps"][0]["name"]) == ("SUCCESS", "orders.tasks.receipt")
    shop.relay()
    until(lambda: offload.subjects("ann@example.com") == ["Order 1"], "the mail of the outbox")
    assert worker.stop() == 0


WRITER = """
import sys, time, django
django.setup()
from orders.services import place
for number in range(int(sys.argv[2])):
    time.sleep(0.1)  # no more than the worker does, however long the kills take
    order = place(f"{sys.argv[1]}-{number}@example.com")
    # Committed: what is written here may never be lost.
    print(order.pk, flush=True)
"""


def place_and_kill(shop: Shop, kills: int, orders: int, chance: random.Random) -> dict[str, int]:
    """Kill the relay again and again, and now and then the writer, while orders are placed. Returns the figures."""
    (shop.folder / "writer.py").write_text(WRITER)
    writers = []

    def write() -> Process:
        writers.append(shop.start("writer", str(shop.folder / "writer.py"), str(len(writers)), str(orders)))
        return writers[-1]

    writer, relay = write(), shop.relay()
    for number in range(kills):
        relay.wait_for("relaying")
        time.sleep(chance.uniform(0, 0.3))  # anywhere between a commit, a post and its note
        relay.kill()
        relay = shop.relay()
        if number % 5 == 4 and writer.exit_code is None:
            writer.kill()
        if writer.exit_code is not None:
            writer = write()
    writer.kill()
    count = "from offload_outbox.models import Entry; print(Entry.objects.filter(sent_at=None).count())"
    until(lambda: shop.python(count) == "0", "the outbox to be empty", seconds=120, pause_seconds=1)
    until(shop.stack.is_quiet, "every task to end", seconds=300)
    relay.stop()
    committed = {line for one in writers for line in one.output().split() if line.isdigit()}
    figures = (
        "from orders.models import Order; from offload_outbox.models import Entry; "
        "print(Order.objects.count(), Order.objects.filter(confirmed_at=None).count(), Entry.objects.count(), "
        "len(set(Entry.objects.values_list('task_id', flat=True))), Entry.objects.exclude(refused='').count())"
    )
    placed, unconfirmed, entries, tasks, refused = map(int, shop.python(figures).split())
    redis = shop.stack.redis.client()
    ended = sum(int(n) for key in redis.scan_iter("offload:figures:*") for n in redis.hvals(key))
    # A writer may be killed between a commit and its line.
    assert len(committed) <= placed
    assert tasks == entries == placed
    return {"orders": placed, "lost": unconfirmed + refused, "doubled": ended - entries}


def test_the_outbox_loses_and_doubles_nothing(shop):
    figures = place_and_kill(shop, kills=6, orders=100, chance=random.Random(7))
    assert figures["orders"] > 10
    assert (figures["lost"], figures["doubled"]) == (0, 0), figures
