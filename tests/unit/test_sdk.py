"""What a user's mistakes are answered with, and what policies come of options."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from offload_core.errors import PermanentError, TemporaryError
from offload_core.settings import WorkerSettings
from offload_worker import Run, Worker
from offload_worker.policy import Policy

EXAMPLE = Path(__file__).parents[2] / "examples" / "own-worker" / "src" / "acme"


class Given(BaseModel):
    a: int


class Back(BaseModel):
    b: int


class WithOutputs(BaseModel):
    outputs: int


def unannotated(given, run):
    raise AssertionError


def text(given: str) -> Back:
    raise AssertionError


def no_result(given: Given):
    raise AssertionError


def own_outputs(given: Given) -> WithOutputs:
    raise AssertionError


def right(given: Given, run: Run) -> Back:
    raise AssertionError


@pytest.mark.parametrize(
    ("name", "function", "options", "error", "said"),
    [
        ("a.b.v1", unannotated, {"queue": "q"}, TypeError, "annotate the first parameter of unannotated"),
        ("a.b.v1", text, {"queue": "q"}, TypeError, "annotate the first parameter of text"),
        ("a.b.v1", no_result, {"queue": "q"}, TypeError, "annotate what no_result returns"),
        ("a.b.v1", own_outputs, {"queue": "q"}, TypeError, "outputs of WithOutputs is Offload's own"),
        ("a.b.v1", right, {}, ValueError, "say in which queue it waits"),
        ("Render", right, {"queue": "q"}, ValueError, "use noun.verb.vN"),
        ("a.b.v1", right, {"queue": "No Queue"}, ValueError, "is no name of a queue"),
        ("a.b.v1", right, {"queue": "q", "max_attempts": 0}, ValueError, "must be at least 1"),
        ("a.b.v1", right, {"queue": "q", "concurrency": 0}, ValueError, "must be at least 1"),
        (
            "a.b.v1",
            right,
            {"queue": "q", "soft_time_limit_seconds": 9, "hard_time_limit_seconds": 8},
            ValueError,
            "must not be more",
        ),
    ],
)
def test_a_mistake_is_said_where_it_is_made(name, function, options, error, said):
    with pytest.raises(error, match=said):
        Worker("w").task(name, **options)(function)


def test_a_task_type_has_one_function():
    worker = Worker("w")
    worker.task("a.b.v1", queue="q")(right)
    with pytest.raises(ValueError, match="has two functions"):
        worker.task("a.b.v1", queue="q")(right)
    assert worker.queues == ("q",)


def test_options_make_a_policy():
    settings = WorkerSettings()

    def of(pool="prefork", **options) -> Policy:
        return Policy.with_options(settings, options, pool)

    assert of() == Policy.of(settings)
    assert of(max_attempts=4, backoff_seconds=10.0, backoff_limit_seconds=15.0).pauses_seconds == (10, 15, 15)
    assert of(backoff_seconds=(1.0, 5.0)).pauses_seconds == (1, 5)
    assert of(backoff_seconds=(1.0, 5.0), max_attempts=5).pauses_seconds == (1, 5, 5, 5)
    assert of(max_attempts=1).pauses_seconds == ()
    limits = of(soft_time_limit_seconds=60)
    assert (limits.soft_time_limit_seconds, limits.hard_time_limit_seconds, limits.deadline_seconds) == (60, 120, None)
    assert of("threads", hard_time_limit_seconds=60).deadline_seconds == 60


def test_a_post_may_change_how_a_step_is_retried():
    policy = Policy((60.0, 120.0))
    assert policy.for_task(None) is policy
    assert policy.for_task({"max_attempts": 5}).pauses_seconds == (60, 120, 240, 480)
    assert policy.for_task({"schedule": [1, 2], "max_attempts": 4}).pauses_seconds == (1, 2, 2)
    assert policy.for_task({"base_seconds": 1, "cap_seconds": 3, "max_attempts": 5}).pauses_seconds == (1, 2, 3, 3)
    assert Policy(()).for_task({"max_attempts": 2}).pauses_seconds == (1,)


def test_what_may_heal_is_told_by_type_and_by_code():
    policy = Policy((), retry_on=(OSError, "a.b"), give_up_on=("busy",))
    assert policy.may_heal(TemporaryError("x", ""))
    assert not policy.may_heal(TemporaryError("busy", ""))
    assert policy.may_heal(ConnectionError())
    assert policy.may_heal(PermanentError("a.b", ""))
    assert not policy.may_heal(PermanentError("b", ""))
    assert not policy.may_heal(ValueError())
    assert Policy((), retry_on=("*",)).may_heal(ValueError())


def test_a_users_worker_passes_a_strict_type_checker(tmp_path):
    """And what is wrong about it is found. The example's worker has nothing wrong."""
    (tmp_path / "shop.py").write_text(SHOP)
    shutil.copytree(EXAMPLE, tmp_path / "acme")
    strict = ["--strict", "--ignore-missing-imports", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *strict, "shop.py", "acme"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    lines = [line for line in checked.stdout.splitlines() if "error:" in line]
    assert [line.split(":")[:2] for line in lines] == [["shop.py", "41"]], checked.stdout + checked.stderr
    assert Path(tmp_path / "shop.py").read_text().splitlines()[40].endswith("# wrong")


SHOP = """
from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pydantic import BaseModel

from offload_core.settings import FleetSettings
from offload_worker import PermanentError, Run, Worker
from offload_worker.testing import Testbed


class Settings(FleetSettings):
    shop_name: str = "Acme"


class Client:
    def price(self) -> int:
        return 1


class Order(BaseModel):
    number: str


class Price(BaseModel):
    cents: int


@contextlib.contextmanager
def lifespan(settings: Settings) -> Iterator[Client]:
    yield Client()


worker = Worker("shop", Settings, lifespan, pool="threads")


@worker.task("order.price.v1", queue="orders", max_attempts=4, backoff_seconds=60, retry_on=(OSError,))
def price(order: Order, run: Run[Client]) -> Price:
    return Price(cents=run.resources.prise())  # wrong


@worker.task("order.check.v1", queue="orders")
async def check(order: Order) -> None:
    if not order.number:
        raise PermanentError("order.empty", "it has no number")


plain = Worker("plain")


def test() -> None:
    with Testbed(worker, resources=Client()) as testbed:
        assert testbed.run("order.price.v1", Order(number="1")).state == "SUCCESS"
"""
