"""Upgrades and evictions under load: nothing lost, nothing twice, and nobody refused because of them."""

from __future__ import annotations

import json
import shutil
import time

import yaml

from devstack.waiting import until

from .cluster import CHART, Load, Release, Tally, kubectl
from .conftest import SMALL


def uids(release: Release, component: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in release.pods(component)}


def test_three_upgrades_of_everything_under_twenty_posts_a_second(scaled, images, other_images, tmp_path, report):
    newer = tmp_path / "offload"
    shutil.copytree(CHART, newer)
    chart = yaml.safe_load((newer / "Chart.yaml").read_text())
    kept = {component: uids(scaled, component) for component in ("valkey", "s3")}
    started = time.monotonic()
    with scaled.client() as client:
        # Mostly mails: what piles up while two cores replace pods has to be done in the end, and photos slow it down.
        with Load(client, 1), Load(client, 19, "post_mail"):
            for number, values in enumerate((other_images, images, other_images), 1):
                before = {name: uids(scaled, name) for name in ("gateway", "beat", "worker-mail")}
                (newer / "Chart.yaml").write_text(yaml.safe_dump(chart | {"version": f"0.2.{number}"}))
                scaled.upgrade(*values, chart=newer)
                for name, old in before.items():
                    assert not old & uids(scaled, name), f"{name} was not replaced"
        seconds = time.monotonic() - started
        tally = Tally.of(scaled, client, seconds=240)
        scaled.upgrade()
        assert set(client.statuses) <= {202, 429, 503}, client.statuses
        # Every post is on the disk before its answer. When the disk stalls for longer than a gateway waits for Redis,
        # those who post at that moment are told to come again; a rollout itself refuses nobody.
        assert set(client.codes) <= {"redis.unavailable", "accept.unknown"}, client.codes
        assert client.codes.total() <= client.statuses.total() / 200, client.codes
        assert client.retry_after_missing == 0
        tally.check()
        assert {component: uids(scaled, component) for component in kept} == kept
        report.add(
            "Rollouts", "3 `helm upgrade`s of gateway, beat and fleets, chart and images changed, under 20 posts/s",
            f"{tally.accepted} accepted in {seconds:.0f} s, statuses {dict(client.statuses)}, "
            f"{client.reconnects} requests repeated on a closed connection; 0 lost, 0 doubled; "
            "Valkey's and S3's pods kept",
        )  # fmt: skip


def evict(release: Release, component: str) -> bool:
    """Ask for the eviction of a pod that is ready; returns whether it was allowed."""
    for pod in release.ready_pods(component):
        metadata = {"name": pod["metadata"]["name"], "namespace": release.namespace}
        path = f"/api/v1/namespaces/{release.namespace}/pods/{metadata['name']}/eviction"
        eviction = json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata})
        answer = kubectl("create", "--raw", path, "-f", "-", stdin=eviction, check=False)
        # Refused by the disruption budget for now, or scaled away since it was listed.
        if answer.startswith(("Error from server (TooManyRequests)", "Error from server (NotFound)")):
            return False
        assert json.loads(answer)["status"] == "Success", answer
        return True
    return False


def test_an_eviction_is_allowed_and_loses_nothing(scaled, report):
    with scaled.client() as client:
        with Load(client, 5):
            until(lambda: scaled.pods("worker-image"), "a pod to evict", seconds=60)
            for component in ("worker-image", "worker-mail", "gateway"):
                # As a drain does: refused while another pod of the fleet is not ready yet, it is asked for again.
                until(lambda component=component: evict(scaled, component), f"an eviction of {component}", seconds=90)
        Tally.of(scaled, client, seconds=180).check()
        report.add(
            "Rollouts",
            "evictions of a pod of each fleet and of the gateway",
            f"allowed; {len(client.accepted)} tasks, 0 lost, 0 doubled",
        )


def test_one_replica_may_be_evicted_too(images, report):
    release = Release(
        "offload-single", [*images, "-f", str(SMALL), "--set", "keda.enabled=false,gateway.replicas=1"]
    ).install()
    try:
        budgets = json.loads(release.kubectl("get", "pdb", "-o", "json"))["items"]
        assert {budget["metadata"]["name"]: budget["status"]["disruptionsAllowed"] for budget in budgets} == {
            "offload-gateway": 1, "offload-worker-image": 1, "offload-worker-mail": 1,
        }  # fmt: skip
    finally:
        release.delete()
