"""The gateway writes Celery's messages without Celery: here each field is held against what Celery itself publishes."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from celery import chain

from celery_leases.publish import message_key
from offload_contracts.images import RESIZE_IMAGE, THUMBNAIL_IMAGE, ResizeImage, ThumbnailImage
from offload_contracts.mails import NOTIFY, SEND_MAIL, Notify, SendMail
from offload_core import keys
from offload_core.messages import NewStep, envelopes
from offload_core.settings import Settings
from offload_worker.backend import RecordBackend
from offload_worker.celery_app import create_app

TASK = "9d0a6a5e-3f0b-4a0e-8a55-1c1f0b9d7a11"
DUE = datetime(2026, 11, 25, 8, 0, 0, 123456, tzinfo=UTC)
CHAINS = {
    "photo": [
        NewStep.of(RESIZE_IMAGE, ResizeImage(source="uploads/x/original", width=800)),
        NewStep.of(THUMBNAIL_IMAGE, ThumbnailImage(longest_side=200)),
        NewStep.of(NOTIFY, Notify(to="ann@example.com", user_id="Ünal")),
    ],
    "two steps": [
        NewStep.of(RESIZE_IMAGE, ResizeImage(source="uploads/x/original")),
        NewStep.of(THUMBNAIL_IMAGE, ThumbnailImage(longest_side=200)),
    ],
    "mail": [NewStep.of(SEND_MAIL, SendMail(to=("bob@example.com",), subject="Größe", text="x" * 3000))],
}
# Another at each publishing, or the trace's.
DIFFERENT = {"origin", "reply_to", "delivery_tag"}


@pytest.fixture(scope="module")
def published(monkeypatch_module):
    """What our own Celery application puts to the broker."""
    app = create_app("contract-test", Settings(redis_url="redis://127.0.0.1:1/0"))
    puts = []

    class Channel:
        pass

    from celery_leases import transport

    class Recording(transport.Channel):
        def _put(self, queue, message, **_):
            puts.append((queue, message))

        def _queue_bind(self, *_):
            """Tell no server."""

        def queue_declare(self, *_, **__):
            """Tell no server."""

    monkeypatch_module.setattr("redis.Redis.ping", lambda _: True)
    monkeypatch_module.setattr(transport.Transport, "Channel", Recording)

    def publish(steps, **options):
        puts.clear()
        signatures = [
            app.signature(step.name, args=(step.arguments,), queue=step.queue, task_id=keys.step_id(TASK, number))
            for number, step in enumerate(steps, 1)
        ]
        (chain(*signatures) if len(signatures) > 1 else signatures[0]).apply_async(**options)
        return puts[0]

    return publish


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def without_differences(value):
    if isinstance(value, dict):
        return {name: without_differences(one) for name, one in value.items() if name not in DIFFERENT}
    if isinstance(value, list):
        return [without_differences(one) for one in value]
    return value


def decoded(message: dict) -> dict:
    body = json.loads(base64.b64decode(message["body"]))
    return without_differences({**message, "body": body})


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("due", [None, DUE])
def test_each_field_is_the_one_that_celery_publishes(published, name, due):
    steps = CHAINS[name]
    queue, theirs = published(steps, **({"eta": due} if due else {}))
    (ours,) = envelopes(TASK, [(step,) for step in steps], {}, origin="test", due=due)
    assert ours.queue == queue
    assert ours.message_key == message_key(TASK)
    assert decoded(json.loads(ours.text)) == decoded(json.loads(json.dumps(theirs)))
    assert list(json.loads(ours.text)["headers"]) == list(theirs["headers"]), "in the same order too"
    assert ours.due_ms == (round(due.timestamp() * 1000) if due else 0)


def test_no_argument_stands_outside_of_the_body():
    (made,) = envelopes(TASK, [(step,) for step in CHAINS["photo"]], {}, origin="test")
    outside = {name: value for name, value in json.loads(made.text).items() if name != "body"}
    assert "ann" not in json.dumps(outside)
    assert "uploads" not in json.dumps(outside)


def test_celerys_own_variables_do_not_move_our_services(monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://elsewhere:1/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://elsewhere:1/0")
    app = create_app("contract-test", Settings(redis_url="redis://127.0.0.1:1/0"))
    for connection in (app.connection_for_read(), app.connection_for_write()):
        assert connection.as_uri() == "leases+redis://127.0.0.1:1/0"
    assert isinstance(app.backend, RecordBackend)
