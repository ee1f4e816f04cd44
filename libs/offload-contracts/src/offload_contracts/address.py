"""E-mail addresses as we accept them: one mailbox, ASCII, nothing that could end a header."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

# RFC 5321, section 4.5.3.1.3: 254 octets of a path without its brackets. How
# long a local part is, is the server's to judge.
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
MAX_LENGTH = 254


def check(address: str) -> str:
    """Return the address when it is one plain mailbox.

    Raises:
        ValueError: otherwise. Quoted local parts, domain literals and names beyond ASCII are not accepted.

    """
    local, at, domain = address.rpartition("@")
    if not at or len(address) > MAX_LENGTH or not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise ValueError("must be one e-mail address in ASCII, like ann@example.com")
    return address


# The same rule as one expression, for those who read the JSON schema.
PATTERN = rf"^{_LOCAL.pattern}@{_LABEL}(\.{_LABEL})*$"
Address = Annotated[
    str,
    AfterValidator(check),
    WithJsonSchema({"type": "string", "minLength": len("a@b"), "maxLength": MAX_LENGTH, "pattern": PATTERN}),
]
