"""What a task's subscriptions ask for is published by the script that ends it: on a real server, without a worker."""

from __future__ import annotations

import base64
import json

import pytest

from offload_contracts.mails import NOTIFY_FAILURE, SEND_MAIL, NotifyFailure, SendMail
from offload_contracts.reports import RENDER_REPORT, RenderReport
from offload_core import keys, messages, records
from offload_core.messages import NewStep
from offload_core.publisher import Publisher
from offload_core.task_store import TaskStore

from .conftest import PREFIX

BROKER = f"{PREFIX}queue:"
STORE = TaskStore(PREFIX, BROKER, keep_ms=60_000)
REPORT = NewStep.of(RENDER_REPORT, RenderReport(rows=1))
MAIL = NewStep.of(SEND_MAIL, SendMail(to=("ann@example.com",), subject="a", text="b"))
ERROR = {"code": "a.code", "message": 'a "text" with ünicode\n'}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def redis(offload):
    return offload.redis.client()


def accept(redis, task_id: str, step: NewStep = REPORT, **fields) -> None:
    task = Publisher("test").task(task_id, "report", "shop", [step], **fields)
    assert STORE.accept(task).run(redis)[0] == b"accepted"


def end(redis, task_id: str, state: str = "FAILURE", attempt: int = 0) -> None:
    outcome = {} if state == "SUCCESS" else ERROR
    call = STORE.finish(keys.step_of(task_id), (attempt, 1), state, outcome, traceparent=TRACE)
    assert call.run(redis) == b"stored"


def mails(redis) -> dict[str, dict]:
    return {key.decode(): json.loads(text) for key, text in redis.hgetall(f"{BROKER}mail:live").items()}


def test_what_the_script_publishes_is_what_our_envelope_is(redis):
    """Two places write Celery's message: this holds them together."""
    accept(redis, "t", notify="ann@example.com", user_id="7")
    end(redis, "t")
    (found,) = mails(redis).values()
    notification = NotifyFailure(
        to="ann@example.com",
        failed_task_id="t",
        step=RENDER_REPORT.name,
        code="a.code",
        reason=ERROR["message"],
        user_id="7",
    )
    headers = {"traceparent": TRACE, messages.PUBLISHED_AT: found["headers"][messages.PUBLISHED_AT]}
    step = NewStep.of(NOTIFY_FAILURE, notification)
    expected = json.loads(messages.envelopes("t-failure", [(step,)], headers, origin="outbox")[0].text)
    bodies = [json.loads(base64.b64decode(message.pop("body"), validate=True)) for message in (found, expected)]
    assert bodies[0] == bodies[1]
    assert found == expected
    assert list(mails(redis)) == ["t-failure:0:0"]
    record = records.decode("t-failure", redis.hgetall(keys.record(PREFIX, "t-failure")))
    assert (record.kind, record.owner, record.state) == ("failure-notification", "shop", "PENDING")
    assert (record.parent_task_id, record.steps[0].name) == ("t", NOTIFY_FAILURE.name)


@pytest.mark.parametrize("state", ["SUCCESS", "REVOKED"])
def test_another_end_publishes_nothing(redis, state):
    accept(redis, "t", notify="ann@example.com")
    end(redis, "t", state)
    assert not mails(redis)


def test_nobody_is_mailed_who_did_not_ask(redis):
    accept(redis, "t")
    end(redis, "t")
    assert not mails(redis)


def test_no_mail_tells_of_a_mail(redis):
    accept(redis, "t", MAIL, notify="ann@example.com")
    end(redis, "t")
    assert list(mails(redis)) == ["t:0:0"]


def test_each_redrive_is_told_of_again(redis):
    accept(redis, "t", notify="ann@example.com")
    end(redis, "t")
    redis.hset(keys.record(PREFIX, "t"), mapping={"state": "PENDING", "1:state": "PENDING", "redrives": '[{"at": 1}]'})
    end(redis, "t")
    assert sorted(mails(redis)) == ["t-failure-1:0:0", "t-failure:0:0"]


def test_a_record_of_the_release_before_is_told_of_too(redis):
    """It says whom to tell, and has no subscriptions."""
    accept(redis, "t", notify="ann@example.com", user_id="7")
    redis.hdel(keys.record(PREFIX, "t"), "subscriptions")
    end(redis, "t")
    (found,) = mails(redis).values()
    ((message,), *_) = json.loads(base64.b64decode(found["body"]))
    assert NOTIFY_FAILURE.decode(message).to == "ann@example.com"
    assert message["user_id"] == "7"
