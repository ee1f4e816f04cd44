"""What the API says of webhooks."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gateway.intake.fields import INTEGRAL, Moment, Tag, UserId
from offload_contracts.calls import Url
from offload_core.events import TYPES

EventType = StrEnum("EventType", {name.replace(".", "_").upper(): name for name in TYPES})  # type: ignore[misc]  # of a table
# A month: nothing is signed with two secrets for longer.
MAX_GRACE_SECONDS = 2_592_000
MAX_EVENTS, MAX_TAGS, MAX_RETRIES = 50, 20, 19

_Events = Annotated[tuple[EventType, ...], Field(max_length=MAX_EVENTS)]
_Tags = Annotated[tuple[Tag, ...], Field(max_length=MAX_TAGS)]
_Rate = Annotated[float, Field(gt=0, le=1000)]
_Delays = Annotated[tuple[Annotated[float, Field(ge=1, le=86_400)], ...], Field(min_length=1, max_length=MAX_RETRIES)]
_EVENTS = Field(default=(), description="The types of events that it is told of. Empty: all.")
_TAGS = Field(default=(), description="It is told of tasks that have one of these tags. Empty: of all.")
_DESCRIPTION = Field(default="", description="For people.")
_RATE = Field(default=None, description="Attempts a second at most.")
_RETRIES = Field(default=None, description="Delays before each further attempt, instead of Offload's own.")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NewWebhook(_Body):
    """An endpoint that is to be."""

    url: Url = Field(description="Where events are posted to.")
    events: _Events = _EVENTS
    tags: _Tags = _TAGS
    description: UserId = _DESCRIPTION
    signature: Literal["hmac", "ed25519"] = Field(
        default="hmac", description="`hmac`: a secret that you have too. `ed25519`: a public key that verifies."
    )
    rate_per_second: _Rate | None = _RATE
    retry_seconds: _Delays | None = _RETRIES


class WebhookChange(_Body):
    """Changes to an endpoint. Fields that are left out stay as they are."""

    url: Url | None = None
    events: _Events | None = None
    tags: _Tags | None = None
    description: UserId | None = None
    rate_per_second: _Rate | None = _RATE
    retry_seconds: _Delays | None = _RETRIES
    disabled: bool | None = Field(default=None, description="`false` lets an endpoint that was disabled go on.")


class Rotation(_Body):
    """How a secret is replaced."""

    grace_seconds: Annotated[int, Field(ge=0, le=MAX_GRACE_SECONDS), INTEGRAL] = Field(
        default=86_400, description="How long the old secret signs as well."
    )


class Resend(_Body):
    """Which event is to be sent again."""

    event: Annotated[str, Field(pattern=r"^evt_[0-9]{1,20}_[0-9]{1,20}_[A-Za-z0-9._-]{1,300}$")] = Field(
        description="Its `webhook-id`."
    )


class Recovery(_Body):
    """The time span whose failed deliveries are sent again."""

    since: Moment
    until: Moment | None = None


class Webhook(BaseModel):
    """An endpoint."""

    id: str
    url: str
    events: list[str]
    tags: list[str]
    description: str
    signature: str
    public_key: str | None = Field(description="With `ed25519`: the key that verifies its signatures.")
    rate_per_second: float | None
    retry_seconds: list[float] | None
    created_at: str
    disabled_at: str | None
    disabled_reason: str | None = Field(
        description="`gone`: the receiver has answered 410. `failing`: every attempt has failed for five days. "
        "`disabled_by_owner`: by a `PATCH`."
    )
    failing_since: str | None = Field(description="Since when no attempt has succeeded.")
    tenant: str


class WebhookWithSecret(Webhook):
    """An endpoint and the secret of its signatures, which is never shown again."""

    secret: str | None = Field(description="With `hmac`: the key of its signatures. Never shown again.")


class WebhookList(BaseModel):
    """A page of endpoints."""

    data: list[Webhook]
    next: str | None
    previous: str | None


class Attempt(BaseModel):
    """One attempt to deliver one event."""

    event: str = Field(description="The `webhook-id`.")
    type: str
    task_id: str = Field(description="Id of the delivery, which is a task.")
    number: int = Field(description="1 is the first attempt.")
    at: str
    duration_ms: int
    status: int | None = Field(description="What the receiver answered; null where it did not.")
    code: str | None = Field(description="Why it failed; null where it did not.")


class AttemptList(BaseModel):
    """A page of attempts."""

    data: list[Attempt]
    next: str | None
    previous: str | None


class Sent(BaseModel):
    """A delivery that is under way."""

    event: str = Field(description="The `webhook-id`.")
    task_id: str = Field(description="Id of the delivery, which is a task.")


class Recovered(BaseModel):
    """The deliveries that were started again."""

    resent: int
    is_complete: bool = Field(description="False: there are more. Ask again.")


class SigningSecret(BaseModel):
    """What signs callbacks and signed calls."""

    secret: str


NEW_WEBHOOK: TypeAdapter[NewWebhook] = TypeAdapter(NewWebhook)
CHANGE: TypeAdapter[WebhookChange] = TypeAdapter(WebhookChange)
ROTATION: TypeAdapter[Rotation] = TypeAdapter(Rotation)
RESEND: TypeAdapter[Resend] = TypeAdapter(Resend)
RECOVERY: TypeAdapter[Recovery] = TypeAdapter(Recovery)
