"""The same client, ledgers and invariants against a release on a real cluster: `--cluster` runs these alone.

Needs what tests/cluster needs: kubectl, Helm, Docker, a registry, and a cluster whose processes this host may kill.
"""

from __future__ import annotations

import random
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from cluster.cluster import Release, kill_container
from cluster.conftest import SMALL, images, images_of  # noqa: F401 -- a fixture
from integration.conftest import PREFIX

from devstack import history
from devstack.waiting import until

from .ledgers import Client, image, judge, noisy_photo
from .report import ON_A_CLUSTER, Row
from .test_upgrade import BEFORE

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

pytestmark = pytest.mark.cluster
TASKS = 600
CONTENT = noisy_photo(900, 700)


class Installed:
    """A release, as the harness knows a stack of processes."""

    def __init__(self, release: Release, folder: Path) -> None:
        self.release, self.folder = release, folder
        self.url = f"http://{release.address('gateway')}"
        self.headers = {"Authorization": f"Bearer {release.secret('api-keys', 'api-key')}"}
        self.redis = SimpleNamespace(client=release.redis)
        # Its traces go to a collector of the cluster's, where there is one.
        self.otlp = SimpleNamespace(spans=())
        self._outputs: dict[str, list[str]] | None = None

    def outputs(self, task_id: str) -> list[str]:
        """Return a task's outputs; all of them are listed once."""
        if self._outputs is None:
            self._outputs = self.release.outputs()
        return sorted(self._outputs.get(task_id, []))

    def mails(self) -> Counter[str]:
        return self.release.mails()

    def is_quiet(self) -> bool:
        client = self.release.redis()
        return not any(client.hlen(key) for key in client.scan_iter(match=f"{PREFIX}queue:*:live"))


@pytest.fixture(scope="module")
def release(images) -> Iterator[Release]:  # noqa: F811 -- the fixture
    made = Release(
        "offload-faults",
        [
            *images, "-f", str(SMALL), "--set",
            "keda.enabled=false,workers.image.replicas=3,workers.mail.replicas=1,gateway.replicas=2,gateway.queueLimit=100000",
            "--set", "mailpit.maxMessages=0",
        ],
    ).install()  # fmt: skip
    yield made
    made.delete()


def storm(release: Release, folder: Path, name: str, act: Callable[[], None], times: int, pause: float):
    """Post chains of three, act so many times meanwhile, and judge."""
    stack = Installed(release, folder)
    client = Client(stack.url, folder / "client.jsonl", name=name, headers=stack.headers)
    acted: list[float] = []
    client.start(
        lambda number: image(f"{name}{number}", CONTENT, chain=True),
        TASKS,
        more=lambda: len(acted) < times,
        give_up_seconds=600,
    )
    redis = release.redis()
    until(lambda: redis.hlen(f"{PREFIX}queue:images:live"), "work", seconds=60)
    for _ in range(times):
        acted.append(time.time())
        act()
        time.sleep(pause)  # not a wait: faults come at intervals
    client.join(600)
    return client, acted, judge(stack, client, kills=acted, seconds=600)


@pytest.mark.parametrize(
    ("order", "component", "how", "times"),
    [
        (41, "worker-image", "`kill -9` of image worker pods", 12),
        (42, "gateway", "`kill -9` of gateway pods", 6),
        (43, "worker-image", "image worker pods deleted (SIGTERM)", 8),
    ],
)
def test_pods(release, scale, tmp_path, order, component, how, times):
    chance = random.Random(scale.seed)

    def act() -> None:
        pods = until(lambda: release.ready_pods(component), "a pod to be ready", seconds=180)
        pod = chance.choice(pods)
        if "-9" in how:
            kill_container(pod)
        # Replaced rather than restarted: a container that was killed again and again is made to wait.
        release.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")

    client, _, verdict = storm(release, tmp_path, f"f{order}-", act, times, pause=5)
    note(order, how, times, client, verdict, scale.seed)


def test_redis_pod_killed(release, scale, tmp_path):
    def act() -> None:
        (pod,) = until(lambda: release.ready_pods("valkey"), "Valkey to be ready", seconds=180)
        kill_container(pod)
        release.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
        until(lambda: is_back(release), "Valkey to be back", seconds=180)

    client, _, verdict = storm(release, tmp_path, "f44-", act, 3, pause=10)
    note(44, "`kill -9` of Valkey's pod", 3, client, verdict, scale.seed)


def test_an_upgrade_by_helm_and_its_rollback(images, scale, tmp_path):  # noqa: F811 -- the fixture
    """From the release before, with its chart and its images, and back: chains, mails and reports go on."""
    before = history.tree(BEFORE)
    small = ["-f", str(SMALL), "--set", "keda.enabled=false,gateway.replicas=2,gateway.queueLimit=100000"]
    release = Release("offload-upgrade", [*images_of("before", before), *small])
    release.install(chart=before / "charts" / "offload")
    acts = [
        lambda: release.roll_back(1),
        lambda: release.upgrade(*images, "--set", "workers.housekeeping.enabled=true"),
    ]

    def act() -> None:
        acts.pop()()

    try:
        client, acted, verdict = storm(release, tmp_path, "f45-", act, 2, pause=20)
        assert release.pods("worker-housekeeping") == []
    finally:
        release.delete()
    note(
        45,
        "`helm upgrade` from 0.1.2, and `helm rollback`",
        len(acted),
        client,
        verdict,
        scale.seed,
        "1 image worker of 2 slots",
    )


def is_back(release: Release) -> bool:
    import redis

    client: redis.Redis = release.redis()
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def note(
    order: float, how: str, times: int, client: Client, verdict, seed: int, fleet: str = "3 image workers of 2 slots"
) -> None:
    Row.of(
        verdict,
        order=order,
        fault=f"{ON_A_CLUSTER}{how}",
        load=f"{verdict.tasks} chains of three, {fleet}",
        injected=times,
        recovery=verdict.recovery,
        seen=f"{verdict.again} steps run again; answers {dict(client.answers)}",
        seed=seed,
    ).note()
    verdict.check()
    assert client.without_retry_after == 0
