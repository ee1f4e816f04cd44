"""Secrets are rotated under load: every pod gets the new ones, and nothing is lost."""

from __future__ import annotations

import json
import secrets
from collections import Counter

from devstack.waiting import until

from .cluster import OUTSIDE, Load, Release, Tally, get, namespace, render
from .conftest import SMALL, Outside

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


class MailsOutside(Release):
    """A release whose mails a server outside has taken."""

    outside: Outside

    def mails(self) -> Counter[str]:
        """Return how many mails each address got."""
        return Counter(self.outside.ledger.read_text().split())


def test_rotated_secrets_of_servers_outside_lose_nothing(images, outside, report):
    """The server takes both passwords for a while, as docs/how-to/rotate-secrets.md has it."""
    name = "offload-rotated-outside"
    values = [
        *images, "-f", str(SMALL), "--set", "keda.enabled=false,existingSecrets.redis=mine,existingSecrets.smtp=mine",
        "--set", f"redis.url=rediss://{OUTSIDE}:6379/0,redis.caSecret=authority",
        "--set", f"smtp.host={OUTSIDE},smtp.port=587,smtp.security=none",
    ]  # fmt: skip
    release = MailsOutside(name, values)
    release.outside = outside
    namespace(name)

    def secret(**items: str) -> str:
        return json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "stringData": items})

    try:
        old = {"redis-password": outside.redis_password, "smtp-password": outside.smtp_password}
        new = {key: secrets.token_hex(24) for key in old}
        release.kubectl("apply", "-f", "-", stdin=secret(**old, **{"smtp-username": "offload"}))
        release.kubectl("create", "secret", "generic", "authority", f"--from-file=ca.crt={outside.authority}")
        release.install(in_new_namespace=False)
        with release.client() as client:
            with Load(client, 3):
                server = outside.redis()
                server.execute_command("ACL", "SETUSER", "default", f">{new['redis-password']}")
                outside.take_logins(old["smtp-password"], new["smtp-password"])
                release.kubectl("apply", "-f", "-", stdin=secret(**new, **{"smtp-username": "offload"}))
                release.upgrade()
                server.execute_command("ACL", "SETUSER", "default", f"<{old['redis-password']}")
                outside.take_logins(new["smtp-password"])
                at_the_new_ones = len(client.accepted)
                until(lambda: len(client.accepted) > at_the_new_ones + 10, "posts with the new passwords", seconds=60)
            tally = Tally.of(release, client, seconds=240)
            tally.check()
        report.add(
            "Rollouts", "the passwords of a Redis and a mail server outside rotated under 3 posts/s",
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
