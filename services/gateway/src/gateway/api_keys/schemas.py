"""What the API says of API keys."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gateway.intake.fields import INTEGRAL, Moment
from gateway.paging import PageQuery
from gateway.scopes import SCOPES
from gateway.tenants.schemas import NAME

Scope = StrEnum("Scope", {name.replace(":", "_").upper(): name for name in sorted(SCOPES)})  # type: ignore[misc]  # of a set
# A month: nobody needs two keys for longer.
MAX_GRACE_SECONDS = 2_592_000


class NewApiKey(BaseModel):
    """An API key to create."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Annotated[str, Field(pattern=NAME)] = Field(description="The tenant that the key belongs to.")
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=len(SCOPES))] = Field(
        description="What the key may do. `operator` includes all scopes of a tenant, for every tenant. "
        "`admin` includes no other scope."
    )
    expires_at: Moment | None = Field(default=None, description="When the key expires. Null: never.")
    description: Annotated[str, Field(max_length=500)] = Field(default="", description="For people.")


class Rotation(BaseModel):
    """How a key is replaced."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grace_seconds: Annotated[int, Field(ge=0, le=MAX_GRACE_SECONDS), INTEGRAL] = Field(
        default=86_400, description="How long the old key stays valid."
    )


class ApiKey(BaseModel):
    """An API key, without its secret."""

    id: str
    tenant: str
    scopes: list[Scope]
    prefix: str = Field(description="How the key begins.")
    description: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(
        description="Accurate to about half a minute. Null: the key has not been used."
    )


class ApiKeyWithSecret(ApiKey):
    """An API key that has just been made."""

    key: str = Field(description="The key itself. It is never shown again.")


class ApiKeyList(BaseModel):
    """A page of API keys."""

    data: list[ApiKey]
    next: str | None
    previous: str | None


class ApiKeyQuery(PageQuery):
    """Which API keys are listed."""

    tenant: Annotated[str, Field(pattern=NAME)] | None = Field(default=None, description="Only keys of this tenant.")


NEW_API_KEY: TypeAdapter[NewApiKey] = TypeAdapter(NewApiKey)
ROTATION: TypeAdapter[Rotation] = TypeAdapter(Rotation)
