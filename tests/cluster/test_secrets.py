"""Secrets are rotated under load: every pod gets the new ones, and nothing is lost."""

from __future__ import annotations

import json
import secrets

from .cluster import Load, Release, Tally
from .conftest import SMALL


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
