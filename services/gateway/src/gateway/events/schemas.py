"""What tokens are asked for with, and answered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gateway.intake.fields import INTEGRAL


class TokenRequest(BaseModel):
    """For which task a token is, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task_id: Annotated[str, Field(min_length=1, max_length=200)]
    ttl_seconds: Annotated[int, Field(ge=1, le=3600), INTEGRAL] = Field(
        default=600, description="How long the token is good for."
    )


TOKEN: TypeAdapter[TokenRequest] = TypeAdapter(TokenRequest)


class Token(BaseModel):
    """A token that may read one task's events and outputs, in the query parameter `token`."""

    token: str
    expires_at: datetime
    events_url: str
