"""Beat: each occurrence is one task, whatever happens to beat."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from devstack.waiting import until
from offload_core import keys
from offload_core.schedules import Schedule

from .conftest import JPEG, PREFIX, WITH_KEYS, photo

EVERY_SECOND = {"OFFLOAD_HEALTH_INTERVAL_SECONDS": "1", "OFFLOAD_RESULT_EXPIRES_SECONDS": "600"}


def occurrences(offload) -> list[str]:
    found = offload.redis.client().keys(f"{PREFIX}task:beat:health@*")
    return sorted(key.decode().rpartition("@")[2] for key in found)


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
    started = time.time()
    beat = offload.service("beat", settings={"OFFLOAD_REPORT_CRON": "* * * * *"} | EVERY_SECOND)
    until(lambda: occurrences(offload), "the first occurrence")
    assert schedule(offload, "daily-report").since / 1000 > started - 1
    assert not offload.redis.client().keys(f"{PREFIX}task:beat:nightly*")
    beat.stop()


@pytest.mark.parametrize(("late_seconds", "caught_up"), [(1800, True), (5400, False)])
def test_of_missed_reports_the_newest_is_caught_up_within_an_hour(offload, late_seconds, caught_up):
    """Beat of a release before 0.3 has noted what it ran last, and was down since; an occurrence was so long ago."""
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
    reports = redis.keys(f"{PREFIX}task:beat:daily-report@*")
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
    """Beat has looked, and run an occurrence, a year from now: it goes on by the clock as it is, and doubles none."""
    beat = offload.service("beat", settings=EVERY_SECOND)
    until(lambda: occurrences(offload), "the first occurrence")
    beat.stop()
    redis, count = offload.redis.client(), len(occurrences(offload))
    ahead = round((time.time() + 365 * 86_400) * 1000)
    redis.hset(keys.schedule(PREFIX, "beat", "health"), "since", ahead)
    redis.zadd(keys.schedules(PREFIX), {"beat:health": ahead + 1000}, xx=True)
    redis.set(keys.clock(PREFIX), ahead)
    beat = offload.service("beat", settings=EVERY_SECOND)
    until(lambda: len(occurrences(offload)) >= count + 3, "occurrences to be published")
    assert published(offload) == len(occurrences(offload))
    assert schedule(offload, "health").since <= time.time() * 1000 + 2000
    assert beat.output().count("clock was ahead") == 1
    beat.stop()


# -- Offload's own schedules are entries like any other


def schedule(offload, name: str) -> Schedule | None:
    return Schedule.of("beat", name, offload.redis.client().hgetall(keys.schedule(PREFIX, "beat", name)))


def run_beat(offload, **settings: str) -> None:
    """Have beat take over its settings."""
    beat = offload.service("beat", settings={f"OFFLOAD_{name.upper()}": value for name, value in settings.items()})
    beat.wait_for("beat: Starting")
    clock = keys.clock(PREFIX)
    offload.redis.client().delete(clock)
    until(lambda: offload.redis.client().exists(clock), "beat to have looked")
    assert beat.stop() == 0


def test_settings_change_what_they_say_and_no_edit_of_an_operators(offload):
    offload.gateway()
    client = offload.client()
    run_beat(offload, report_recipients="ann@example.com")
    shown = {one["name"]: one for one in client.get("/v1/schedules", params={"tenant": "beat"}).json()["data"]}
    assert set(shown) == {"health", "daily-report", "nightly-clean-up", "weekly-clean-up"}
    assert shown["daily-report"]["input"] == {"recipients": ["ann@example.com"]}
    assert (shown["daily-report"]["cron"], shown["health"]["every_seconds"]) == ("0 8 * * *", 30)
    offload.worker("housekeeper")
    until(lambda: b"housekeeper" in offload.redis.client().hgetall(keys.catalogue(PREFIX)), "its task types")
    path, query = "/v1/schedules/daily-report", {"tenant": "beat"}
    edit = {
        "task": "maintenance.report.v1", "input": {"recipients": ["ann@example.com"]}, "cron": "30 6 * * MON-FRI",
        "note": "not on Sundays", "catch_up_seconds": 60,
    }  # fmt: skip
    edited = until(
        lambda: (answer := client.put(path, params=query, json=edit)).status_code == 200 and answer.json(),
        "the gateway to know the task type",
    )
    assert edited["cron"] == "30 6 * * MON-FRI"
    assert client.delete("/v1/schedules/weekly-clean-up", params=query).status_code == 204
    client.post("/v1/schedules/health/pause", params=query, json={"note": "for a trial"}).raise_for_status()
    # The same settings change nothing; others change what they say.
    run_beat(offload, report_recipients="ann@example.com")
    assert client.get(path, params=query).json()["cron"] == "30 6 * * MON-FRI"
    run_beat(offload, report_recipients="ann@example.com bob@example.com", health_interval_seconds="60")
    report = client.get(path, params=query).json()
    assert report["input"] == {"recipients": ["ann@example.com", "bob@example.com"]}
    assert (report["cron"], report["catch_up_seconds"], report["note"]) == ("30 6 * * MON-FRI", 60, "not on Sundays")
    health = client.get("/v1/schedules/health", params=query).json()
    assert (health["every_seconds"], health["paused"], health["note"]) == (60, True, "for a trial")
    assert client.get("/v1/schedules/weekly-clean-up", params=query).status_code == 404, "what was deleted stays so"
    run_beat(offload, weekly_clean_up_cron="0 5 * * 0", report_cron="0 9 * * *")
    assert client.get("/v1/schedules/weekly-clean-up", params=query).json()["cron"] == "0 5 * * 0"
    assert client.get(path, params=query).json()["cron"] == "0 9 * * *", "a setting that changes is what counts"


def test_a_redis_that_has_lost_everything_gets_its_schedules_again(offload):
    beat = offload.service("beat", settings=EVERY_SECOND)
    until(lambda: occurrences(offload), "the first occurrence")
    offload.redis.client().flushall()
    until(lambda: len(occurrences(offload)) >= 2, "occurrences to go on", seconds=40)
    # One that cannot be read, as a later release may have written it, holds up none of the others.
    redis = offload.redis.client()
    redis.hset(keys.schedule(PREFIX, "beat", "daily-report"), "definition", '{"task": {"unknown": 1}}')
    redis.hdel(keys.configured_schedules(PREFIX), "daily-report", "weekly-clean-up")
    redis.delete(keys.schedule(PREFIX, "beat", "weekly-clean-up"))
    until(lambda: schedule(offload, "weekly-clean-up"), "the other one to be there again", seconds=40)
    assert "daily-report cannot be read" in beat.output()
    assert beat.stop() == 0


def test_a_tenant_has_no_use_for_what_is_offloads_own(offload):
    offload.gateway(WITH_KEYS)
    offload.worker("housekeeper")
    until(lambda: b"housekeeper" in offload.redis.client().hgetall(keys.catalogue(PREFIX)), "its task types")
    shop = offload.client_of("shop")
    body = {"task": "maintenance.clean_up.v1", "every_seconds": 60}
    assert shop.put("/v1/schedules/mine", json=body).json()["code"] == "task_type.unknown"
    assert shop.put("/v1/schedules/mine", params={"tenant": "beat"}, json=body).json()["code"] == "auth.scope"
    assert shop.get("/v1/schedules/health", params={"tenant": "beat"}).json()["code"] == "auth.scope"


@pytest.mark.parametrize("cron", ["x", "0 0 31 2 *"])
def test_an_expression_that_never_comes_true_is_refused_at_the_start(offload, cron):
    beat = offload.service("beat", settings={"OFFLOAD_REPORT_CRON": cron})
    until(lambda: beat.exit_code is not None, "beat to end")
    assert beat.exit_code != 0
    assert "daily-report" in beat.output()
