"""Keys, errors, logs, fingerprints, pauses: small, and relied on everywhere."""

from __future__ import annotations

import json
import logging
import pickle

import pytest
from starlette.datastructures import Headers

from gateway.emails.schemas import EMAIL
from gateway.images.schemas import ImageRequest
from gateway.intake import idempotency
from gateway.problems import Problem
from mail_worker.settings import MailWorkerSettings
from offload_core import keys, logs
from offload_core.errors import PermanentError, TemporaryError
from offload_core.settings import WorkerSettings
from offload_worker.backend import describe
from offload_worker.policy import Policy, with_jitter


@pytest.mark.parametrize(
    ("celery_id", "step"),
    [("a-b", ("a-b", 1)), ("a-b.2", ("a-b", 2)), ("daily@2026Z", ("daily@2026Z", 1)), ("a.x", ("a.x", 1))],
)
def test_a_steps_id_names_its_task(celery_id, step):
    assert keys.step_of(celery_id) == step
    if celery_id != "a.x":
        assert keys.step_id(*step) == celery_id


def test_errors_survive_a_pools_pipe():
    for error in (PermanentError("a.b", "text"), TemporaryError("c.d", "more")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.code, copy.message) == (type(error), error.code, error.message)


def test_an_unforeseen_error_tells_nothing_but_to_operators():
    described = describe(RuntimeError("ann@example.com was here"), None)
    assert described["code"] == "task.failed"
    assert "ann" not in json.dumps(described)
    assert "traceback" in described


def test_pauses_double_with_a_little_jitter():
    assert Policy.of(WorkerSettings()).pauses_seconds == (60, 120, 240)
    assert all(60 <= with_jitter(60) <= 66 for _ in range(100))


def test_a_mail_is_tried_for_days_as_rfc_5321_wants():
    pauses = MailWorkerSettings.model_fields["mail_retry_seconds"].default
    assert 3.5 * 86_400 <= sum(pauses) <= 5 * 86_400
    assert sum(pause < 1800 for pause in pauses) == 3, "then half an hour at least"
    assert list(pauses) == sorted(pauses)


def test_logs_are_json_without_addresses():
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "to %s from image@host", ("ann@example.com",), None)
    line = json.loads(logs.JsonFormatter("gateway").format(record))
    assert line["message"] == "to <address> from image@host"
    assert line["service"] == "gateway"


def test_a_fingerprint_is_of_what_was_asked_for_not_of_how():
    def image(**fields: str) -> str:
        return idempotency.fingerprint("POST", "/v1/images", ImageRequest.model_validate(fields), "hash")

    def mail(text: str) -> str:
        return idempotency.fingerprint("POST", "/v1/emails", EMAIL.validate_json(text, strict=True))

    same = image(width="10", height="20")
    assert {
        image(height="20", width="10"),
        image(height="20", width="010"),
        image(height="20", width="10", fit="contain"),
    } == {same}
    assert same != image(width="10", height="21")
    assert same != idempotency.fingerprint("POST", "/v1/images", ImageRequest(width=10, height=20), "other")
    assert image(format="jpg") == image(format="jpeg")
    context = '{"to": "a@example.com", "template": "welcome", "context": %s}'
    one = mail(context % '{"name": "Ann", "more": {"x": 1, "y": [1, {"a": 1, "b": 2}]}}')
    assert one == mail(context % '{"more": {"y": [1, {"b": 2, "a": 1}], "x": 1}, "name": "Ann"}')
    assert one != mail(context % '{"more": {"y": [1, {"b": 2, "a": 1}], "x": 2}, "name": "Ann"}')
    plain = '{"to": %s, "subject": "x", "text": "y"%s}'
    assert (
        len({mail(plain % one) for one in (('"a@b.c"', ""), ('["a@b.c"]', ""), ('"a@b.c"', ', "delay_seconds": 0.0'))})
        == 1
    )


@pytest.mark.parametrize("bad", ["", "x" * 256, "ä", "a\tb"])
def test_an_idempotency_key_is_printable_and_bounded(bad):
    with pytest.raises(Problem) as raised:
        idempotency.key_of(Headers({"idempotency-key": bad}))
    assert raised.value.code == "idempotency.invalid"
    assert idempotency.key_of(Headers()) is None
    assert idempotency.key_of(Headers({"idempotency-key": "k" * 255})) == ("k" * 255, None)


@pytest.mark.parametrize("bad", ["", "59", "604801", "1e3", "-60", "60.5", "\xb2\xb2", "9" * 30])
def test_the_life_of_an_idempotency_key_is_a_minute_to_a_week(bad):
    with pytest.raises(Problem) as raised:
        idempotency.key_of(Headers({"idempotency-key": "k", "idempotency-ttl": bad}))
    assert raised.value.code == "idempotency.invalid"
    for ttl in (60, 604_800):
        given = Headers({"idempotency-key": "k", "idempotency-ttl": str(ttl)})
        assert idempotency.key_of(given) == ("k", ttl * 1000)


def test_amazons_own_s3_needs_no_endpoint_and_no_keys():
    from offload_core.blobs import BlobStore
    from offload_core.settings import BlobSettings

    BlobStore(BlobSettings(blob_url="s3://bucket"))
    BlobStore(BlobSettings(blob_url="s3://bucket/folder", s3_endpoint="http://127.0.0.1:1"))
