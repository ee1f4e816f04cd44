"""A call to somebody else's HTTP server."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, StringConstraints, WithJsonSchema, model_validator

from offload_contracts.contract import Message, Queue, Result, TaskContract

MAX_HEADERS = 50
MAX_BODY_BYTES = 1_000_000
MAX_RESULT_BYTES = 65_536
MAX_RESULT_HEADERS = 20
MAX_TIMEOUT_SECONDS = 900

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_PORT = "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_GROUP = "[0-9a-fA-F]{1,4}"
# RFC 4291, section 2.2, without the form that holds an IPv4 address.
_IPV6 = "|".join(
    [
        f"({_GROUP}:){{7}}{_GROUP}",
        f"({_GROUP}:){{1,7}}:",
        *(f"({_GROUP}:){{1,{6 - after}}}(:{_GROUP}){{1,{after + 1}}}" for after in range(6)),
        f":((:{_GROUP}){{1,7}}|:)",
    ]
)
# http or https, a host, and neither a user name nor a password. A name of other letters is written as IDNA has it.
URL_PATTERN = (
    rf"^https?://([A-Za-z0-9_][A-Za-z0-9_.-]{{0,252}}|\[({_IPV6})\])(:{_PORT})?"
    r"([/?#][^\x00-\x20\x7f\\<>\"]*)?$"
)
Url = Annotated[str, Field(max_length=2000, pattern=URL_PATTERN)]
_NAME_PATTERN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$"
# Printable ASCII, as a client of any server can rely on.
_VALUE_PATTERN = r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$"
MAX_VALUE_LENGTH = 4000
HeaderName = Annotated[str, StringConstraints(pattern=_NAME_PATTERN)]
HeaderValue = Annotated[str, StringConstraints(pattern=_VALUE_PATTERN, max_length=MAX_VALUE_LENGTH)]
StatusPattern = Annotated[str, StringConstraints(pattern=r"^[1-5]([0-9]{2}|xx)$")]
# Of the connection, or set by Offload.
_OWN_HEADERS = re.compile(
    r"host|content-length|transfer-encoding|connection|keep-alive|te|trailer|upgrade|expect|proxy-.*"
    r"|idempotency-key|offload-.*|webhook-(id|timestamp|signature)|traceparent|tracestate",
    re.IGNORECASE,
)


def _not_ours(headers: dict[str, str]) -> dict[str, str]:
    if taken := sorted(name for name in headers if _OWN_HEADERS.fullmatch(name)):
        message = f"must not have {', '.join(taken)}"
        raise ValueError(message)
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("must have each name once")
    return headers


def _is_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("must be base64") from None
    return text


Headers = Annotated[
    dict[HeaderName, HeaderValue],
    Field(max_length=MAX_HEADERS),
    AfterValidator(_not_ours),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_HEADERS,
            "propertyNames": {"pattern": _NAME_PATTERN},
            "additionalProperties": {"type": "string", "pattern": _VALUE_PATTERN, "maxLength": MAX_VALUE_LENGTH},
        }
    ),
]
Base64 = Annotated[
    str,
    Field(max_length=MAX_BODY_BYTES * 4 // 3 + 4),
    AfterValidator(_is_base64),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]*={0,2}$"}),
]


class Call(Message):
    """One request to an HTTP server, and which answers are a success."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    url: Url = Field(description="Whom to call: http or https, without a user name or a password.")
    method: Method = "POST"
    headers: Headers = Field(default={}, description="Sent along. Nobody is shown them.")
    payload: JsonValue | None = Field(default=None, alias="json", description="A body of JSON.")
    body_base64: Base64 | None = Field(default=None, description="Any other body, in base64; at most 1 MB.")
    timeout_seconds: Annotated[float, Field(ge=1, le=MAX_TIMEOUT_SECONDS)] = Field(
        default=30, description="How long one attempt may take in all, 1 to 900 s."
    )
    success: Annotated[tuple[StatusPattern, ...], Field(min_length=1, max_length=20)] = Field(
        default=("2xx",), description="The status codes that are a success: `204`, or `2xx` for all that begin so."
    )
    sign: bool = Field(default=False, description="Send the three headers of Standard Webhooks along.")

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if self.payload is not None and self.body_base64 is not None:
            raise ValueError("give either json or body_base64")
        if self.method in {"GET", "HEAD"} and (self.payload is not None or self.body_base64 is not None):
            raise ValueError(f"{self.method} has no body")
        return self


class CallResult(Result):
    """What the receiver answered."""

    status: int
    # The first 20, by their names in lower case.
    headers: dict[str, str] = Field(default={})
    # The first 64 KiB, as text where they are UTF-8.
    body: str | None = None
    body_base64: str | None = None
    is_truncated: bool = False
    duration_ms: int


HTTP_CALL = TaskContract("http.call.v1", Queue.CALLS, Call, CallResult)
