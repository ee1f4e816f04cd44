"""Mail: text and HTML, byte-stable, and nothing that ends a header."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default

import pytest

from mail_worker import compose
from offload_contracts import Template
from offload_runtime.errors import PermanentError

DATE = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
CONTEXTS = {
    Template.WELCOME: {"name": "Ann"},
    Template.RECEIPT: {"name": "Ann", "number": 7, "items": [{"title": "Tea", "price": "3.20"}], "total": "3.20"},
    Template.DAILY_REPORT: {"day": "2026-11-23", "total": 3, "failed": 1, "rows": [], "queues": []},
}


def built(content: compose.Content, mail_id: str = "task-1", to: tuple[str, ...] = ("ann@example.com",)) -> bytes:
    return bytes(compose.message(content, sender="offload@example.com", to=to, mail_id=mail_id, date=DATE))


@pytest.mark.parametrize("template", list(Template))
def test_every_template_can_be_filled(template):
    content = compose.from_template(template, CONTEXTS[template])
    parsed = message_from_bytes(built(content), policy=default)
    assert parsed.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in parsed.iter_parts()] == ["text/plain", "text/html"]
    assert parsed["Subject"] == content.subject


def test_a_retry_is_the_same_to_the_byte():
    content = compose.from_template("welcome", {"name": "Ann"})
    assert built(content) == built(content)
    assert built(content) != built(content, mail_id="task-2")
    assert message_from_bytes(built(content), policy=default)["Message-ID"] == "<task-1@example.com>"


def test_html_is_escaped_and_text_is_not():
    content = compose.from_template("welcome", {"name": "<b>Ann</b>"})
    assert "<b>Ann</b>" in content.text
    assert "&lt;b&gt;Ann" in content.html


@pytest.mark.parametrize("bad", ["a\nBcc: x@example.com", "a\rb", "a\x00b", "a\u2028b", "x" * 201])
def test_a_subject_that_would_break_out_is_refused(bad):
    with pytest.raises(PermanentError) as raised:
        compose.from_template("welcome", {"name": bad})
    assert raised.value.code == "mail.header_refused"
    with pytest.raises(PermanentError):
        built(compose.Content(bad, "text"))


@pytest.mark.parametrize("context", [{}, {"name": None, "items": 1}])
def test_a_context_that_lacks_something_is_refused(context):
    with pytest.raises(PermanentError) as raised:
        compose.from_template("receipt", context)
    assert raised.value.code == "mail.template_context"


def test_templates_are_in_a_sandbox():
    environment = compose._environment
    with pytest.raises(Exception, match="unsafe"):
        environment.from_string("{{ ().__class__.__mro__ }}").render()


def test_lines_are_short_and_ascii():
    data = built(compose.Content("Größe", "ü" * 5000, "<p>" + "ü" * 5000 + "</p>"))
    assert all(len(line) <= 998 for line in data.split(b"\r\n"))
    assert data.isascii()
    assert b"\n" not in data.replace(b"\r\n", b"")
