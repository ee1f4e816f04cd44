"""Keys, errors, logs, fingerprints, pauses: small, and relied on everywhere."""

from __future__ import annotations

import json
import logging
import pickle

import pytest

from gateway import dispatch
from gateway.problems import Problem
from offload_runtime import keys, logs
from offload_runtime.backend import describe
from offload_runtime.errors import PermanentError, TemporaryError
from offload_runtime.steps import backoff


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
    for attempt, base in ((0, 60), (1, 120), (2, 240)):
        assert base <= backoff(attempt, 60) <= base * 1.1


def test_logs_are_json_without_addresses():
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "to %s from image@host", ("ann@example.com",), None)
    line = json.loads(logs.JsonFormatter("gateway").format(record))
    assert line["message"] == "to <address> from image@host"
    assert line["service"] == "gateway"


def test_a_fingerprint_is_of_the_fields_not_of_their_order():
    one = dispatch.fingerprint("POST", "/v1/images", {"a": "1", "b": "2"}, "hash")
    assert one == dispatch.fingerprint("POST", "/v1/images", {"b": "2", "a": "1"}, "hash")
    for other in (
        dispatch.fingerprint("POST", "/v1/images", {"a": "1", "b": "3"}, "hash"),
        dispatch.fingerprint("POST", "/v1/images", {"a": "1", "b": "2"}, "other"),
        dispatch.fingerprint("POST", "/v1/emails", {"a": "1", "b": "2"}, "hash"),
    ):
        assert other != one


@pytest.mark.parametrize("bad", ["", "x" * 256, "ä", "a\tb"])
def test_an_idempotency_key_is_printable_and_bounded(bad):
    with pytest.raises(Problem) as raised:
        dispatch.idempotency_key({"idempotency-key": bad})
    assert raised.value.code == "idempotency.invalid"
    assert dispatch.idempotency_key({}) is None
    assert dispatch.idempotency_key({"idempotency-key": "k" * 255}) == "k" * 255


def test_amazons_own_s3_needs_no_endpoint_and_no_keys():
    from offload_runtime.blobs import BlobStore
    from offload_runtime.settings import BlobSettings

    BlobStore(BlobSettings(blob_url="s3://bucket"))
    BlobStore(BlobSettings(blob_url="s3://bucket/folder", s3_endpoint="http://127.0.0.1:1"))
