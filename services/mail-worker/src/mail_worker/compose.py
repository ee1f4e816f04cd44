"""Mail messages, as pure functions: the same input gives the same bytes, so that a retry sends the very same mail."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from jinja2 import PackageLoader, StrictUndefined, TemplateError, select_autoescape
from jinja2.sandbox import SandboxedEnvironment

from offload_core.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

# Control characters, and the separators that some mailers take for line ends, never belong into a header.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MAX_SUBJECT_LENGTH = 200
# With its name, a header's line then has less than the 78 characters of RFC 5322, section 2.1.1.
_PLAIN_LENGTH = 66
# 42 bytes are 56 characters of base64, 68 with what stands around them, 77 with the header's name.
_WORD_BYTES = 42

_environment = SandboxedEnvironment(
    loader=PackageLoader("mail_worker"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=False,
)


@dataclass(frozen=True, slots=True)
class Content:
    """What a mail says."""

    subject: str
    text: str
    html: str | None = None


def from_template(name: str, context: Mapping[str, Any]) -> Content:
    """Return a template's content.

    Raises:
        PermanentError: ``mail.template_context`` when the context lacks something, ``mail.header_refused`` when the
            subject would hold a line end or another control character.

    """
    try:
        subject, text, html = (
            _environment.get_template(f"{name}.{part}").render(context) for part in ("subject", "txt", "html")
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise PermanentError("mail.template_context", f"the template {name} cannot be filled: {error}") from None
    return Content(header(subject.strip("\n")), text.strip("\n") + "\n", html)


def header(value: str) -> str:
    """Return a header's value when it is safe.

    Raises:
        PermanentError: ``mail.header_refused``.

    """
    if _FORBIDDEN.search(value) or len(value) > MAX_SUBJECT_LENGTH:
        raise PermanentError(
            "mail.header_refused", "a header may have no control character and no more than 200 others"
        )
    return value


def message(
    content: Content, *, sender: str, to: Sequence[str], mail_id: str, date: datetime, sender_name: str = ""
) -> bytes:
    """Return the mail. Message-ID and boundary come from `mail_id`, so that copies can be told to be the same.

    The headers are written here, each by the one rule that is right for it. The standard library decodes encoded words
    wherever it finds them, so that an address or a subject which looks like one would become others; it only writes
    the body.
    """
    body = EmailMessage(policy=SMTP)
    # quoted-printable keeps every line short and in ASCII, whatever the text holds.
    body.set_content(content.text, cte="quoted-printable")
    if content.html is not None:
        body.add_alternative(content.html, subtype="html", cte="quoted-printable")
        body.set_boundary("=_" + hashlib.sha256(mail_id.encode()).hexdigest()[:32])
    headers = (
        ("From", f"{_phrase(sender_name)} <{sender}>" if sender_name else sender),
        # One address a line: none is ever folded, and each was checked to be plain ASCII.
        ("To", ",\r\n ".join(to)),
        ("Subject", _unstructured(header(content.subject))),
        ("Date", format_datetime(date)),
        ("Message-ID", message_id(mail_id, sender)),
        ("Auto-Submitted", "auto-generated"),
    )
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("ascii") + bytes(body)


def _unstructured(text: str) -> str:
    """Return a header's text as it is where that is safe, else in encoded words."""
    is_plain = text.isascii() and "=?" not in text and text == text.strip() and len(text) <= _PLAIN_LENGTH
    return text if is_plain else _encoded_words(text)


def _phrase(name: str) -> str:
    """Return a display name as a quoted string, or in encoded words where it is more than ASCII."""
    if name.isascii() and "=?" not in name and len(name) <= _PLAIN_LENGTH:
        return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return _encoded_words(name)


def _encoded_words(text: str) -> str:
    """Return RFC 2047's encoded words: one a line, cut between characters."""
    words, taken = [], b""
    for character in text:
        encoded = character.encode("utf-8", "replace")
        if len(taken) + len(encoded) > _WORD_BYTES:
            words.append(taken)
            taken = b""
        taken += encoded
    words.append(taken)
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(word).decode()}?=" for word in words)


def message_id(mail_id: str, sender: str) -> str:
    """Return the Message-ID of a mail: always the same for the same step of the same task."""
    domain = sender.rpartition("@")[2].strip(" >")
    return f"<{re.sub('[^A-Za-z0-9.-]', '-', mail_id)}@{domain}>"
