"""Valkey killed, and away: accepted tasks stay, workers wait without a restart, and posts are told so."""

from __future__ import annotations

import signal
import time

from devstack.waiting import until

from .cluster import Load, Release, Tally, kill_container, restarts
from .conftest import SMALL

FIVE_MINUTES = 300


def test_valkeys_pod_killed_under_load(scaled, report):
    with scaled.client() as client:
        with Load(client, 10):
            until(lambda: client.statuses[202] > 60, "load", seconds=60)
            before = restarts(scaled)
            (pod,) = scaled.pods("valkey")
            # Two at once on one append-only file would lose what one of them has promised.
            lock = ("exec", "offload-valkey-0", "--", "sh", "-c", "flock --nonblock /data/.lock true || echo held")
            assert scaled.kubectl(*lock).strip() == "held"
            assert kill_container(pod) >= 1
            killed_at = time.monotonic()
            until(lambda: client.statuses[503] > 0, "posts to be refused", seconds=30)
            accepted = client.statuses[202]
            until(lambda: client.statuses[202] > accepted, "posts to be accepted again", seconds=120)
            away = time.monotonic() - killed_at
            # And once more, by force: a new pod with the same volume.
            scaled.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
            refused = client.statuses[503]
            until(lambda: client.statuses[503] > refused, "posts to be refused again", seconds=30)
            accepted = client.statuses[202]
            until(lambda: client.statuses[202] > accepted, "posts to be accepted again", seconds=120)
        tally = Tally.of(scaled, client, seconds=240)
        tally.check()
        assert set(client.statuses) <= {202, 429, 503}, client.statuses
        assert client.retry_after_missing == 0
        after = restarts(scaled)
        assert {name: after[name] for name in before if name in after} == {
            name: count for name, count in before.items() if name in after
        }
        report.add(
            "Outages", "Valkey's pod killed twice under 10 posts/s (SIGKILL, then deleted by force)",
            f"{tally.accepted} accepted: 0 lost, 0 doubled; {client.statuses[503]} posts got 503 with Retry-After; "
            f"accepted again {away:.0f} s after the first kill; no pod of Offload's restarted",
        )  # fmt: skip
    until(lambda: scaled.replicas("worker-image") == 0, "the fleet to be at zero", seconds=180, pause_seconds=1)
    with scaled.client() as client:
        started = time.monotonic()
        client.post_photo()
        until(lambda: scaled.replicas("worker-image") > 0, "the fleet to scale from zero", seconds=60)
        waited = time.monotonic() - started
        Tally.of(scaled, client, seconds=120).check()
        report.add("Outages", "… afterwards, a fleet at zero", f"scales again, {waited:.0f} s after the post")


def test_what_hangs_is_restarted_and_nobody_else(images, report):
    """Stopped, and so neither gone nor answering: a worker first, then Valkey."""
    release = Release("offload-hung", [*images, "-f", str(SMALL), "--set", "keda.enabled=false"]).install()
    took = {}
    try:
        with release.client() as client:
            with Load(client, 3):
                for component in ("worker-mail", "valkey"):
                    accepted, before = client.statuses[202], restarts(release)
                    (pod,) = release.pods(component)
                    name, started = pod["metadata"]["name"], time.monotonic()
                    assert kill_container(pod, signal.SIGSTOP) >= 1

                    def has_restarted(component: str = component) -> bool:
                        (pod,) = release.pods(component)
                        return bool(pod["status"]["containerStatuses"][0]["restartCount"])

                    until(has_restarted, f"{name} to be restarted", seconds=180, pause_seconds=1)
                    took[component] = time.monotonic() - started
                    until(lambda before=accepted: client.statuses[202] > before + 5, "posts to be accepted", seconds=60)
                    after = restarts(release)
                    assert after | {name: 0} == before | {name: 0}
            tally = Tally.of(release, client, seconds=240)
            tally.check()
    finally:
        release.delete()
    report.add(
        "Outages", "a mail worker, then Valkey, stopped with SIGSTOP under 3 posts/s",
        f"restarted after {took['worker-mail']:.0f} s and {took['valkey']:.0f} s, nobody else was; "
        f"{tally.accepted} accepted: 0 lost, 0 doubled",
    )  # fmt: skip


def test_redis_away_for_five_minutes_restarts_nothing(away, report):
    before, began = away.restarts, away.began
    release = away.release
    with release.client() as client:
        while time.monotonic() - began < FIVE_MINUTES:
            assert restarts(release) == before
            answer = client.http.post("/v1/emails", json={"to": "a@example.com", "subject": "a", "text": "a"})
            assert answer.status_code == 503
            assert answer.headers["Retry-After"]
            time.sleep(5)
        release.kubectl("scale", "statefulset", "offload-valkey", "--replicas=1")
        for component in ("beat", "worker-mail", "worker-image"):
            release.kubectl("wait", f"deployment/offload-{component}", "--for=condition=Available", "--timeout=90s")
        client.post_photo()
        Tally.of(release, client, seconds=60).check()
        assert restarts(release) == before
    report.add(
        "Outages", "Redis unavailable for five minutes",
        "no container restarted; every post 503 with Retry-After; then on by itself",
    )  # fmt: skip
