"""Mail messages, as pure functions: the same input gives the same bytes, so that a retry sends the very same mail."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from jinja2 import PackageLoader, StrictUndefined, TemplateError, select_autoescape
from jinja2.sandbox import SandboxedEnvironment

from offload_runtime.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

# Control characters, and the separators that some mailers take for line ends, never belong into a header.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MAX_SUBJECT_LENGTH = 200

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


def message(content: Content, *, sender: str, to: Sequence[str], mail_id: str, date: datetime) -> EmailMessage:
    """Return the mail. Message-ID and boundary come from `mail_id`, so that copies can be told to be the same."""
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sender
    mail["To"] = ", ".join(to)
    mail["Subject"] = header(content.subject)
    mail["Date"] = format_datetime(date)
    mail["Message-ID"] = message_id(mail_id, sender)
    mail["Auto-Submitted"] = "auto-generated"
    # quoted-printable keeps every line short and in ASCII, whatever the text holds.
    mail.set_content(content.text, cte="quoted-printable")
    if content.html is not None:
        mail.add_alternative(content.html, subtype="html", cte="quoted-printable")
        mail.set_boundary("=_" + hashlib.sha256(mail_id.encode()).hexdigest()[:32])
    return mail


def message_id(mail_id: str, sender: str) -> str:
    """Return the Message-ID of a mail: always the same for the same step of the same task."""
    domain = sender.rpartition("@")[2].strip(" >")
    return f"<{re.sub('[^A-Za-z0-9.-]', '-', mail_id)}@{domain}>"
