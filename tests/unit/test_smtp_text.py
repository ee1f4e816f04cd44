"""What goes over the wire after DATA."""

from __future__ import annotations

import pytest

from mail_worker.smtp import _quoted


@pytest.mark.parametrize(
    ("mail", "wire"),
    [
        (b"a\r\n", b"a\r\n"),
        (b"a\nb", b"a\r\nb\r\n"),
        (b".\r\n..b\r\n", b"..\r\n...b\r\n"),
        (b"a\rb\r\n", b"a\r\nb\r\n"),
        (b"a\r\n.\r\nMAIL FROM:<x>\r\n", b"a\r\n..\r\nMAIL FROM:<x>\r\n"),
    ],
)
def test_dots_are_doubled_and_line_ends_are_crlf(mail, wire):
    assert _quoted(mail) == wire
