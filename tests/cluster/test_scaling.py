"""Fleets follow their queues: from nothing to many and back, and never at the cost of a task that runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devstack.waiting import until

from .cluster import LARGE_PHOTO, OUTSIDE, Release, Replicas, Tally, get, kubectl, seconds_of
from .conftest import SMALL

FLEET = "worker-image"


@pytest.fixture(scope="module")
def slow_mail(tmp_path_factory):
    """A mail server outside of the cluster that takes forty seconds to say yes; returns its ledger."""
    ledger = tmp_path_factory.mktemp("slow-mail") / "mails.txt"
    script = Path(__file__).parent / "slow_smtp.py"
    server = subprocess.Popen(
        ["ip", "netns", "exec", "lab-outside", sys.executable, str(script), OUTSIDE, "2525", "40", str(ledger)]
    )
    until(ledger.exists, "the mail server outside")
    yield ledger
    server.terminate()
    server.wait()


def test_three_hundred_images_wake_a_fleet_at_zero(scaled, report):
    until(lambda: scaled.replicas(FLEET) == 0, "the fleet to be at zero", seconds=120)
    scaled_object = get("scaledobject", f"offload-{FLEET}", "-n", scaled.namespace)
    assert {one["type"]: one["status"] for one in scaled_object["status"]["conditions"]}["Ready"] == "True"
    with scaled.client() as client, Replicas(scaled, FLEET) as replicas:
        started = time.monotonic()
        posted_at = time.time()
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda _: client.post_photo(LARGE_PHOTO, width=1200, format="webp"), range(300)))
        posting = time.monotonic() - started
        until(lambda: scaled.pods(FLEET), "the first pod", seconds=60)
        tally = Tally.of(scaled, client, seconds=240)
        done = time.monotonic() - started
        tally.check()
        assert tally.accepted == 300
        first_start = min(seconds_of(client.task(task_id)["steps"][0]["started_at"]) for task_id in client.accepted)
        first_pod = min(
            scaled.pods(FLEET, running=False),
            key=lambda pod: pod["metadata"]["creationTimestamp"],
        )
        until(lambda: scaled.replicas(FLEET) == 0, "the fleet to be at zero again", seconds=180, pause_seconds=1)
    created = seconds_of(first_pod["metadata"]["creationTimestamp"])
    pod_start = first_start - created
    most = max(wanted for _, wanted, _ in replicas.seen)
    at_most = next(seconds for seconds, wanted, _ in replicas.seen if wanted == most)
    assert most == 4
    assert replicas.turns <= 1, str(replicas)
    report.add("Elasticity", "300 images to a fleet at zero: posting all", f"{posting:.1f} s")
    report.add("Elasticity", "… first pod asked for", f"{max(created - posted_at, 0):.0f} s after the first post")
    report.add(
        "Elasticity", "… first step started", f"{first_start - posted_at:.1f} s (pod start {pod_start:.1f} s of it)"
    )
    report.add("Elasticity", f"… {most} replicas asked for", f"{at_most:.0f} s")
    report.add("Elasticity", "… all 300 done, each with two outputs and one mail", f"{done:.0f} s; 0 lost, 0 doubled")
    report.add("Elasticity", "… replicas over time", f"{replicas} ({replicas.turns} change of direction)")


def test_scale_in_interrupts_no_task_of_forty_seconds(images, slow_mail, report):
    values = [
        *images, "-f", str(SMALL),
        "--set", "smtp.host=offload-outside,smtp.port=2525,smtp.security=none",
        "--set", f"networkPolicy.smtp.cidrs={{{OUTSIDE}/32}}",
        "--set", "gateway.replicas=1,workers.image=null,workers.mail.concurrency=2",
        "--set", f"smtp.host={OUTSIDE}",
    ]  # fmt: skip
    release = Release("offload-scale-in", values).install()
    fleet = "worker-mail"
    try:
        with release.client() as client, Replicas(release, fleet) as replicas:
            for _ in range(6):
                client.post_mail()
            until(lambda: release.replicas(fleet) == 3, "three replicas", seconds=60)
            until(lambda: running(client) == 6, "six mails being sent", seconds=60)
            # More, a little later: they run when the first ones end and the fleet shrinks under them.
            time.sleep(20)
            for _ in range(4):
                client.post_mail()
            until(lambda: max(seen[1] for seen in replicas.seen) == 4, "four replicas", seconds=90)
            until(lambda: replicas.seen[-1][1] < 4 and running(client) > 0, "scale-in under what runs", seconds=120)
            tasks = client.wait_all(seconds=240)
            until(lambda: release.replicas(fleet) == 1, "one replica", seconds=180)
        got = Counter(slow_mail.read_text().split())
        assert {task["state"] for task in tasks.values()} == {"SUCCESS"}
        assert sorted(got) == sorted(client.accepted.values())
        assert set(got.values()) == {1}
        assert {task["steps"][0]["deliveries"] for task in tasks.values()} == {1}
        report.add(
            "Elasticity", "scale-in while mails of 40 s are sent",
            f"10 mails, replicas {replicas}; 0 lost, 0 doubled, each delivered once",
        )  # fmt: skip
    finally:
        release.delete()


def running(client) -> int:
    return sum(client.task(task_id)["state"] == "STARTED" for task_id in client.accepted)


def test_the_composite_scales_and_is_ready(scaled, report):
    scaled.upgrade("--set", "keda.composite.enabled=true")
    try:

        def conditions() -> dict[str, str]:
            found = get("scaledobject", f"offload-{FLEET}", "-n", scaled.namespace)
            return {one["type"]: one["status"] for one in found["status"]["conditions"]}

        until(lambda: conditions()["Ready"] == "True", "the composite to be ready", seconds=60)
        with scaled.client() as client:
            for _ in range(20):
                client.post_photo()
            Tally.of(scaled, client, seconds=120).check()
        hpa = get("hpa", f"keda-hpa-offload-{FLEET}", "-n", scaled.namespace)
        (metric,) = hpa["spec"]["metrics"]
        assert "composite" in metric["external"]["metric"]["name"]
        errors = kubectl("logs", "-n", "keda", "deployment/keda-operator", "--since=60s").splitlines()
        assert not [line for line in errors if scaled.namespace in line and "metrics-api" in line and "rror" in line]
        report.add(
            "Elasticity", "composite of waiting, running and age", "ScaledObject Ready; 20 images from zero, all done"
        )
    finally:
        scaled.upgrade()


def test_a_paused_queue_asks_for_no_replicas(scaled, report):
    until(lambda: scaled.replicas(FLEET) == 0, "the fleet to be at zero", seconds=180)
    with scaled.client() as client, Replicas(scaled, FLEET) as replicas:
        assert client.http.put("/v1/queues/images/pause", json={"note": "a trial"}).status_code == 200
        try:
            for _ in range(20):
                client.post_photo()
            # The fleet serves this queue too: it comes for the report, and goes while the photos wait.
            report_id = client.http.post("/v1/reports", json={"rows": 10}).json()["task_id"]
            until(lambda: client.task(report_id)["state"] == "SUCCESS", "the report", seconds=120)
            until(lambda: scaled.replicas(FLEET) == 0, "the fleet to be at zero again", seconds=180)
            assert max(wanted for _, wanted, _ in replicas.seen) == 1, str(replicas)
            assert client.http.get("/v1/queues/images").json()["waiting"] == 20
        finally:
            client.http.delete("/v1/queues/images/pause")
        Tally.of(scaled, client, seconds=180).check()
    report.add(
        "Elasticity", "20 images in a paused queue, one report in another queue of the fleet",
        f"replicas {replicas}; the images wait, and are done once the queue is resumed",
    )  # fmt: skip


def test_paused_holds(scaled):
    until(lambda: scaled.replicas(FLEET) == 0, "the fleet to be at zero", seconds=180)
    scaled.upgrade("--set", "keda.paused=true")
    try:
        with scaled.client() as client:
            task_id = client.post_photo()
            until(
                lambda: get("scaledobject", f"offload-{FLEET}", "-n", scaled.namespace)["status"].get("conditions"),
                "KEDA to know it",
            )
            # Three looks of KEDA's.
            time.sleep(15)
            assert scaled.replicas(FLEET) == 0
            assert client.task(task_id)["state"] == "PENDING"
            scaled.upgrade()
            Tally.of(scaled, client, seconds=120).check()
    finally:
        scaled.upgrade()


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_the_number_of_replicas_is_whoever_scales(images, report, helm):
    """KEDA, `kubectl scale` and an HPA of one's own: no upgrade takes their number away."""
    fixed = [*images, "-f", str(SMALL), "--set", "keda.enabled=false,gateway.replicas=null,workers.mail.replicas=null"]
    release = Release(f"replicas-{helm}", [*fixed, "--set", "workers.image.replicas=3"], helm=helm).install()
    try:
        until(lambda: len(release.ready_pods(FLEET)) == 3, "three pods", seconds=60)
        with release.client() as client:
            for _ in range(40):
                client.post_photo(LARGE_PHOTO, width=1200, format="webp")
            with Replicas(release, FLEET) as replicas:
                release.values = [*fixed, "--set", "keda.enabled=true"]
                release.upgrade()
                hpa = ("get", "hpa", f"keda-hpa-offload-{FLEET}", "-o", "name", "--ignore-not-found")
                until(lambda: release.kubectl(*hpa).strip(), "KEDA", seconds=60)
                Tally.of(release, client, seconds=240).check()
            before_the_end = [wanted for seconds, wanted, _ in replicas.seen if seconds < 20]
            assert min(before_the_end) >= 3, str(replicas)
            report.add("Elasticity", f"KEDA turned on over three replicas under load ({helm})", f"replicas {replicas}")
            release.values = fixed
            release.upgrade()
            release.kubectl("scale", "deployment/offload-worker-mail", "--replicas=2")
            release.kubectl("autoscale", "deployment/offload-gateway", "--min=2", "--max=3", "--cpu-percent=80")
            until(lambda: release.replicas("gateway") == 2, "the HPA", seconds=60)
            for level in ("DEBUG", "INFO"):
                release.upgrade("--set", f"logLevel={level}")
                assert (release.replicas("gateway"), release.replicas("worker-mail")) == (2, 2)
            client.post_mail()
            Tally.of(release, client, seconds=60).check()
    finally:
        release.delete()
