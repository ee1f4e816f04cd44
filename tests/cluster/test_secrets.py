"""Secrets are rotated under load: every pod gets the new ones, and nothing is lost."""

from __future__ import annotations

import json
import secrets

from devstack.waiting import until

from .cluster import Load, Release, Tally, get, namespace, render
from .conftest import SMALL

SECRETS = ("redis", "s3", "links", "api-keys")


def test_rotated_secrets_reach_every_pod_and_lose_nothing(images, report):
    """As docs/how-to/rotate-secrets.md has it: change the Secret, then upgrade."""
    release = Release("offload-rotated", [*images, "-f", str(SMALL), "--set", "keda.enabled=false"]).install()
    try:
        with release.client() as client:
            with Load(client, 3):
                for name, key in (
                    ("redis", "redis-password"),
                    ("s3", "s3-secret-access-key"),
                    ("links", "link-secret"),
                ):
                    value = secrets.token_hex(24)
                    patch = json.dumps({"stringData": {key: value}})
                    release.kubectl("patch", "secret", f"offload-{name}", "--type=merge", "-p", patch)
                    release.upgrade()
                    assert release.secret(name, key) == value, "the upgrade kept what was put in"
            tally = Tally.of(release, client, seconds=240)
            tally.check()
            ready = client.http.get("/readyz").json()
            assert ready["checks"] == {"redis": "ok", "blob": "ok"}
        assert release.redis().ping()
        report.add(
            "Rollouts", "the passwords of Redis and S3 and the links' secret rotated under 3 posts/s",
            f"{tally.accepted} accepted, 0 lost, 0 doubled",
        )  # fmt: skip
    finally:
        release.delete()


def test_a_release_that_is_rendered_and_applied_again_keeps_its_secrets(images, report):
    """As Argo CD does: rendered without the cluster, applied by the server twice. Then new pods; a wake from zero."""
    name = "offload-rendered"
    namespace(name)
    values = [*images, "-f", str(SMALL), "-n", name]
    release = Release(name, values)
    try:
        found = []
        for _ in range(2):
            text = render(*values, "--skip-tests", "--api-versions", "keda.sh/v1alpha1/ScaledObject")
            release.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
            for component in ("gateway", "beat", "worker-mail"):
                release.kubectl("rollout", "status", f"deployment/offload-{component}", "--timeout=180s")
            found.append({one: get("secret", f"offload-{one}", "-n", name)["data"] for one in SECRETS})
        assert found[0] == found[1]
        release.kubectl("rollout", "restart", "deployment/offload-gateway", "deployment/offload-worker-mail")
        for component in ("gateway", "worker-mail"):
            release.kubectl("rollout", "status", f"deployment/offload-{component}", "--timeout=180s")
        until(lambda: release.replicas("worker-image") == 0, "the fleet to be at zero", seconds=180, pause_seconds=1)
        with release.client() as client:
            client.post_photo()
            Tally.of(release, client, seconds=120).check()
        report.add(
            "Rollouts", "rendered without the cluster, and applied by the server twice",
            "the same secrets; then new pods and a fleet woken from zero do their work",
        )  # fmt: skip
    finally:
        release.delete()
