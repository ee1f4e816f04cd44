"""Beat: each occurrence is one task, whatever happens to beat."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from devstack.waiting import until
from offload_core import keys

from .conftest import JPEG, PREFIX, photo

EVERY_SECOND = {"OFFLOAD_HEALTH_INTERVAL_SECONDS": "1", "OFFLOAD_RESULT_EXPIRES_SECONDS": "600"}


def occurrences(offload) -> list[str]:
    keys = offload.redis.client().keys(f"{PREFIX}task:health@*")
    return sorted(key.decode().rpartition("@")[2] for key in keys)


def moments(names: list[str]) -> list[int]:
    return [round(datetime.strptime(name, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()) for name in names]


def published(offload) -> int:
    """How many messages went out, counted where no record could hide a second one."""
    redis = offload.redis.client()
    return redis.hlen(f"{PREFIX}queue:maintenance:live")


def test_two_beats_publish_each_occurrence_once(offload):
    beats = [offload.service("beat", settings=EVERY_SECOND) for _ in range(2)]
    until(lambda: len(occurrences(offload)) >= 6, "six occurrences")
    for beat in beats:
        assert beat.stop() == 0
    names = occurrences(offload)
    assert published(offload) == len(names)
    assert all(later - earlier == 1 for earlier, later in zip(moments(names), moments(names)[1:], strict=False))


def test_a_beat_that_is_killed_and_started_doubles_nothing(offload):
    for _ in range(4):
        beat = offload.service("beat", settings=EVERY_SECOND)
        count = len(occurrences(offload))
        until(lambda count=count: len(occurrences(offload)) > count, "another occurrence")
        beat.kill()
    assert published(offload) == len(occurrences(offload))


def test_a_new_installation_owes_no_report(offload):
    """Occurrences before the schedule was first known were not missed."""
    beat = offload.service("beat", settings={"OFFLOAD_REPORT_CRON": "* * * * *"} | EVERY_SECOND)
    until(lambda: occurrences(offload), "the first occurrence")
    first = offload.redis.client().hget(keys.occurrences(PREFIX), "daily-report")
    assert abs(int(first) / 1000 - time.time()) < 20
    assert not offload.redis.client().keys(f"{PREFIX}task:nightly*")
    beat.stop()


@pytest.mark.parametrize(("late_seconds", "caught_up"), [(1800, True), (5400, False)])
def test_of_missed_reports_the_newest_is_caught_up_within_an_hour(offload, late_seconds, caught_up):
    """Beat was down since yesterday; the report's last occurrence was so long ago."""
    occurrence = datetime.fromtimestamp((time.time() - late_seconds) // 60 * 60, UTC)
    redis = offload.redis.client()
    redis.hset(keys.occurrences(PREFIX), "daily-report", round((occurrence.timestamp() - 200_000) * 1000))
    settings = {
        "OFFLOAD_REPORT_CRON": f"{occurrence.minute} {occurrence.hour} * * *",
        "OFFLOAD_REPORT_RECIPIENTS": "ops@example.com, more@example.com",
    } | EVERY_SECOND
    beat = offload.service("beat", settings=settings)
    until(lambda: occurrences(offload), "beat to have ticked")
    until(lambda: len(occurrences(offload)) >= 2, "beat to have ticked again")
    reports = redis.keys(f"{PREFIX}task:daily-report@*")
    assert len(reports) == (1 if caught_up else 0)
    if caught_up:
        assert reports[0].decode().endswith(f"{occurrence:%Y%m%dT%H%M%SZ}")
        for module in ("housekeeper", "mail_worker"):
            offload.worker(module)
        until(lambda: offload.smtp.to("ops@example.com"), "the report")
        mail = offload.record(f"{reports[0].decode().removeprefix(f'{PREFIX}task:')}-mail")
        assert (mail.kind, mail.parent_task_id) == ("email", mail.task_id.removesuffix("-mail"))
        (received,) = offload.smtp.to("more@example.com")
        assert "tasks" in str(received.parsed["Subject"])
    beat.stop()


def test_beat_outlives_redis_and_sweeps(offload):
    beat = offload.service("beat", settings=EVERY_SECOND)
    until(lambda: occurrences(offload), "the first occurrence")
    offload.redis.kill()
    time.sleep(2)  # the outage itself
    offload.redis.start()
    count = len(occurrences(offload))
    until(lambda: len(occurrences(offload)) > count, "occurrences to go on")
    redis = offload.redis.client()
    redis.hset(f"{PREFIX}queue:mail:delayed-messages", "x:0:0", "{}")
    redis.zadd(f"{PREFIX}queue:mail:delayed", {"x:0:0": 1})
    redis.sadd(f"{PREFIX}queue:queues", "mail")
    until(lambda: redis.llen(f"{PREFIX}queue:mail:waiting") == 1, "the due message to be moved")
    assert beat.stop() == 0


def test_the_health_check_goes_to_log_and_metrics(offload):
    offload.gateway()
    workers = [
        offload.worker("housekeeper"),
        offload.worker("mail_worker", {"OFFLOAD_SMTP_CHECK_INTERVAL_SECONDS": "1"}),
    ]
    offload.service("beat", settings=EVERY_SECOND)
    client = offload.client()
    until(
        lambda: 'offload_dependency_up{dependency="blob"} 1.0' in client.get("/metrics").text, "the store in /metrics"
    )
    until(
        lambda: 'offload_dependency_up{dependency="smtp"} 1.0' in client.get("/metrics").text, "the health in /metrics"
    )
    assert all("health: {" in worker.output() for worker in workers)
    offload.smtp.stop()
    until(
        lambda: 'offload_dependency_up{dependency="smtp"} 0.0' in client.get("/metrics").text, "the trouble in /metrics"
    )
    assert 'offload_dependency_up{dependency="redis"} 1.0' in client.get("/metrics").text


def test_the_clean_up_spares_what_is_needed(offload):
    """Outputs past their time and uploads without a record go; what a record or a later step needs stays."""
    offload.environment |= {"OFFLOAD_OUTPUT_RETENTION_SECONDS": "1", "OFFLOAD_ORPHAN_GRACE_SECONDS": "1"}
    offload.gateway()
    offload.worker("image_worker")
    client = offload.client()
    finished = client.post("/v1/images", content=photo(), headers=JPEG).json()["task_id"]
    offload.wait(client, finished)
    waiting = client.post("/v1/images?delay_seconds=600", content=photo(), headers=JPEG).json()["task_id"]
    orphan = offload.blobs / "uploads" / "orphan" / "original"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"x")
    time.sleep(1.2)  # everything grows old
    offload.worker("housekeeper")
    occurrence = datetime.fromtimestamp(time.time() // 60 * 60, UTC)
    offload.redis.client().hset(keys.occurrences(PREFIX), "nightly-clean-up", 1)
    offload.service("beat", settings={"OFFLOAD_NIGHTLY_CLEAN_UP_CRON": f"{occurrence.minute} {occurrence.hour} * * *"})
    until(lambda: not orphan.exists(), "the orphan to go", seconds=40)
    until(lambda: offload.outputs(finished) == [], "the expired output to go")
    assert (offload.blobs / "uploads" / finished / "original").exists(), "its record is still there"
    assert (offload.blobs / "uploads" / waiting / "original").exists(), "its task still waits"


def test_a_clock_that_was_ahead_stops_no_schedule(offload):
    """An occurrence of next year is noted as published: beat goes on by the clock as it is, and doubles nothing."""
    redis = offload.redis.client()
    ahead = round((time.time() + 365 * 86_400) * 1000)
    before = round(time.time() - 60) * 1000
    redis.hset(keys.occurrences(PREFIX), mapping={"health": ahead, "health:before": before})
    beat = offload.service("beat", settings=EVERY_SECOND)
    until(lambda: len(occurrences(offload)) >= 3, "occurrences to be published")
    assert published(offload) == len(occurrences(offload))
    assert "clock was ahead" in beat.output()
    assert int(redis.hget(keys.occurrences(PREFIX), "health")) <= time.time() * 1000 + 2000
    assert beat.output().count("clock was ahead") == 1
    beat.stop()
