"""Signed links: for one output of one task, for a time."""

from __future__ import annotations

import pytest

from offload_core import links

SECRET = "s" * 32


def test_a_link_opens_its_output_until_its_end():
    token = links.sign(SECRET, "task", "a.jpg", 1_000)
    links.verify(SECRET, "task", "a.jpg", token, now=999)
    with pytest.raises(links.LinkExpiredError):
        links.verify(SECRET, "task", "a.jpg", token, now=1_001)


@pytest.mark.parametrize(
    ("task", "output", "token"),
    [
        ("other", "a.jpg", None),
        ("task", "b.jpg", None),
        ("task", "a.jpg", "9999999999.AAAA"),
        ("task", "a.jpg", "x"),
        ("task", "a.jpg", ""),
        ("task", "a.jpg", "1000.ü"),
        ("task", "a.jpg", "²"),
    ],
)
def test_a_link_opens_nothing_else(task, output, token):
    made = links.sign(SECRET, "task", "a.jpg", 1_000)
    with pytest.raises(links.LinkError):
        links.verify(SECRET, task, output, made if token is None else token, now=0)


def test_its_end_cannot_be_moved():
    token = links.sign(SECRET, "task", "a.jpg", 1_000)
    with pytest.raises(links.LinkError, match="not valid"):
        links.verify(SECRET, "task", "a.jpg", token.replace("1000", "9000"), now=0)
