"""Anything at all at the edge: every parser gives its value or its own error, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request

from beat.settings import BeatSettings
from gateway import auth
from gateway.dead_letters.schemas import RedriveQueue, RedriveThese
from gateway.dead_letters.service import Name, position_of
from gateway.emails.schemas import EMAIL, ReceiptEmail, TextEmail, WelcomeEmail
from gateway.images.schemas import ImageRequest
from gateway.intake import idempotency
from gateway.intake.bodies import json_body
from gateway.intake.uploads import Upload
from gateway.problems import Problem
from gateway.reports.schemas import ReportRequest
from mail_worker import compose
from offload_contracts import address
from offload_contracts.contract import ContractError
from offload_contracts.mails import Template
from offload_contracts.registry import ALL
from offload_core import links
from offload_core.errors import StepError
from offload_core.settings import SettingsError
from offload_core.timing import Timing, TimingError


@contextlib.contextmanager
def refused(*allowed: str | int):
    """Let a refusal pass that has one of these codes or statuses; anything else is a failure."""
    try:
        yield
    except (Problem, StepError) as error:
        if not {error.code, getattr(error, "status", None)} & set(allowed):
            raise


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
ANY_TEXT = st.text(st.characters(codec=None), max_size=300)
MODELS = (ImageRequest, TextEmail, WelcomeEmail, ReceiptEmail, ReportRequest, RedriveThese, RedriveQueue)


@pytest.mark.parametrize("model", MODELS)
@given(data=st.data())
def test_options(model: type[BaseModel], data):
    names = st.sampled_from(sorted(model.model_fields)) | st.text(max_size=12)
    fields = data.draw(st.dictionaries(names, JSON | st.integers(-5, 70_000).map(str), max_size=6))
    with contextlib.suppress(ValidationError):
        model.model_validate(fields)


@given(st.binary(max_size=400) | JSON.map(lambda value: repr(value).encode()))
@example(b"{" * 200 + b"}" * 200)
@example(b'{"to": "\xff"}')
def test_json_bodies(body):
    with refused(413, 415, 422):
        asyncio.run(json_body(request({"content-type": "application/json"}, body), EMAIL))


LATIN = st.text(st.characters(codec="latin-1"), max_size=100)
FORM = {"content-type": "multipart/form-data; boundary=b"}


@given(
    headers=st.dictionaries(st.sampled_from(["content-type", "content-length"]), LATIN), body=st.binary(max_size=600)
)
@example(FORM, b"--b\r\n\r\n\r\n--b--")
@example(FORM, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n")
@example({"content-type": "multipart/form-data; boundary"}, b"")
@example({"content-length": "\xb2"}, b"x")
@example({"content-length": "9" * 5000}, b"x")
def test_uploads(headers, body):
    receive(headers, body)


PIECES = (
    b"--b", b"--b--", b"\r\n", b"\n", b'Content-Disposition: form-data; name="file"; filename="a"', b"name=", b"\0",
    b"Content-Disposition", b": ", b"form-data; name*=utf-8''%ff", b"x" * 50, b"width", b"\xff\xfe",
)  # fmt: skip


@given(
    boundary=st.sampled_from([b"b", b"--", b"", b'"', b"x" * 80]),
    pieces=st.lists(st.sampled_from(PIECES), max_size=14),
)
def test_multipart_bodies(boundary, pieces):
    content_type = b"multipart/form-data; boundary=" + boundary
    receive({"content-type": content_type.decode()}, b"".join(pieces))


def receive(headers: dict[str, str], body: bytes) -> None:
    async def run() -> None:
        async for _ in Upload(request(headers, body), 500).chunks():
            pass

    with refused(400, 413, 415, 422):
        asyncio.run(run())


def request(headers: dict[str, str], body: bytes) -> Request:
    limits = SimpleNamespace(body_limit_bytes=300, body_idle_seconds=5, body_timeout_seconds=5)
    app = SimpleNamespace(state=SimpleNamespace(dependencies=SimpleNamespace(settings=limits)))
    pieces = [body[start : start + 97] for start in range(0, len(body), 97)] or [b""]
    messages = [{"type": "http.request", "body": piece, "more_body": piece is not pieces[-1]} for piece in pieces]
    messages[-1]["more_body"] = False

    async def receive() -> dict:
        return messages.pop(0)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw, "app": app}, receive)


@given(LATIN)
@example("a" * 255)
@example("a" * 256)
@example("é")
def test_idempotency_keys(key):
    with refused("idempotency.invalid"):
        assert idempotency.key_of(Headers({"idempotency-key": key})) == (key, None)


@given(ANY_TEXT)
@example("a@b")
@example("a@b\n")
@example("ann@example.com\r\nBcc: all@example.com")
def test_addresses(text):
    try:
        assert address.check(text) == text
    except ValueError:
        return
    assert text.isascii()
    assert not set(text) & set('\r\n\0 ,;:<>"()[]\\')


@given(ANY_TEXT | st.from_regex(r"[-*/0-9, ]{1,30}", fullmatch=True))
@example("0 0 30 2 *")
@example("*/0 * * * *")
@example("99999999999999999999 * * * *")
@settings(deadline=None)
def test_cron(text):
    """What can be read has a next occurrence, or none."""
    now = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    with contextlib.suppress(TimingError):
        assert next(Timing(cron=text).after(now), now + timedelta(1)) > now


@given(ANY_TEXT.filter(lambda text: "\0" not in text))
@example("../../etc/passwd")
@example("Europe/Berlin ")
@example("/etc/localtime")
@settings(deadline=None)
def test_zones(text):
    with contextlib.suppress(SettingsError, ValidationError):
        BeatSettings(redis_url="redis://localhost", time_zone=text, _env_file=None)


@given(ANY_TEXT, ANY_TEXT)
def test_credentials(scheme, token):
    headers = {"authorization": f"{scheme} {token}"}
    keys = object.__new__(auth.Keys)
    keys._callers, keys._open, keys._access = {}, False, object()
    with pytest.raises(Problem) as refused:
        keys.caller(SimpleNamespace(headers=headers))
    assert refused.value.status in {401, 403}


@given(ANY_TEXT)
def test_names_cursors_and_links(text):
    Name.of(text)
    position_of(text)
    with pytest.raises(links.LinkError):
        links.verify("s" * 32, "task", "output", text)


@pytest.mark.parametrize("contract", ALL, ids=lambda contract: contract.name)
@given(data=st.data())
def test_messages(contract, data):
    names = st.sampled_from(sorted(contract.message.model_fields) or ["x"]) | st.text(max_size=8)
    with contextlib.suppress(ContractError):
        contract.decode(data.draw(st.dictionaries(names, JSON, max_size=5) | JSON))


@pytest.mark.parametrize("template", list(Template))
@given(
    context=st.dictionaries(st.sampled_from(["name", "items", "total", "url", "day", "rows", "x"]), JSON, max_size=6)
)
@settings(deadline=None)
def test_template_contexts(template, context):
    with refused("mail.template_context", "mail.header_refused"):
        content = compose.from_template(template, context)
        assert not set(content.subject) & set("\r\n")
