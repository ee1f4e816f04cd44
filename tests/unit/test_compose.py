"""Mail: text and HTML, byte-stable, and nothing that ends a header."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header
from email.policy import compat32, default

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mail_worker import compose
from offload_contracts import address
from offload_contracts.mails import Template
from offload_core.errors import PermanentError

DATE = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
CONTEXTS = {
    Template.WELCOME: {"name": "Ann"},
    Template.RECEIPT: {"name": "Ann", "number": 7, "items": [{"title": "Tea", "price": "3.20"}], "total": "3.20"},
    Template.DAILY_REPORT: {"day": "2026-11-23", "total": 3, "failed": 1, "rows": [], "queues": []},
}


def built(content: compose.Content, mail_id: str = "task-1", to: tuple[str, ...] = ("ann@example.com",)) -> bytes:
    return compose.message(content, sender="offload@example.com", to=to, mail_id=mail_id, date=DATE)


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


# -- headers, against parsers that have nothing to do with the writer

ATEXT = "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+/=?^_`{|}~-"
LOCALS = (
    st.lists(st.text(ATEXT, min_size=1, max_size=12), min_size=1, max_size=4)
    .map(".".join)
    .filter(lambda local: len(local) <= 64)
)
ADDRESSES = LOCALS.map(lambda local: f"{local}@example.com")
ENCODED = "=?utf-8?q?a=2C_evil=40evil.example=2C_b?=@example.com"
SUBJECTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029"), max_size=200
)


def raw_headers(data: bytes) -> dict[str, str]:
    """Return the headers unfolded, by the bytes alone (RFC 5322, section 2.2.3)."""
    head = data.partition(b"\r\n\r\n")[0].decode("ascii")
    lines = head.replace("\r\n ", "\0 ").split("\r\n")
    return dict(line.split(": ", 1) for line in lines)


def decoded(value: str) -> str:
    """Return an unfolded header's text by RFC 2047: what is between two encoded words is no text."""
    value = value.replace("\0", "")
    if not value.startswith("=?utf-8?b?"):
        return value
    return b"".join(base64.b64decode(word) for word in re.findall(r"=\?utf-8\?b\?([^?]*)\?=", value)).decode()


@given(st.lists(ADDRESSES, min_size=1, max_size=8), SUBJECTS)
@example([ENCODED], "=?utf-8?q?a=0D=0ABcc=3A_evil=40evil.example?=")
@example(["=?utf-8?q?=00?=@example.com"], "=?utf-8?b?AA==?=")
@example(["ann@example.com"], "Größe " * 33)
@example(["ann@example.com"], " spaces  inside and around ")
@example(["ann@example.com"], "x" * 200)
@example(["ann@example.com"], "\U0001f600" * 50)
@example(["ann@example.com"], "")
def test_a_receiver_reads_what_was_posted(to, subject):
    to = [address.check(one) for one in to]
    data = built(compose.Content(subject, "text"), to=tuple(to))
    headers = raw_headers(data)
    assert headers["To"].split(",\0 ") == to, "as the envelope has them, byte by byte"
    assert decoded(headers["Subject"]) == subject
    parsed = message_from_bytes(data, policy=compat32)
    assert [one.strip() for one in parsed["To"].split(",")] == to
    joined = "".join(
        text if isinstance(text, str) else text.decode(charset or "ascii")
        for text, charset in decode_header(parsed["Subject"])
    )
    assert joined.replace("\r\n", "") == subject
    head = data.partition(b"\r\n\r\n")[0]
    assert all(len(line) <= 78 or line.startswith((b"To: ", b" ")) for line in head.split(b"\r\n"))
    assert not re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\xff]", head)
    assert b"?==?" not in head
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", data)


@given(SUBJECTS.filter(lambda name: 0 < len(name) <= 100))
@example('Offload "the" \\ sender')
@example("Größe, GmbH <evil@evil.example>")
def test_the_senders_name_is_nothing_but_a_name(name):
    data = compose.message(
        compose.Content("x", "y"), sender="offload@example.com", sender_name=name, to=["a@b.c"], mail_id="1", date=DATE
    )
    value = raw_headers(data)["From"]
    phrase, space, mailbox = value.rpartition(" ")
    assert (space, mailbox) == (" ", "<offload@example.com>")
    phrase = phrase.removesuffix("\0")
    if phrase.startswith('"'):
        assert re.fullmatch(r'"(\\.|[^"\\])*"', phrase)
        assert re.sub(r"\\(.)", r"\1", phrase[1:-1]) == name
    else:
        assert decoded(phrase) == name
