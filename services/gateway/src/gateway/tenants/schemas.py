"""What the API says of tenants."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gateway.intake.fields import INTEGRAL

NAME = r"^[A-Za-z0-9_.-]{1,64}$"
MAX_WAITING = 10_000_000
MAX_PAYLOAD_BYTES = 1_000_000_000

_Description = Annotated[str, Field(max_length=500)]
_DESCRIPTION = Field(default="", description="For people.")


class Limits(BaseModel):
    """Limits of a tenant. Null: the gateway's settings apply."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rate_per_second: Annotated[float, Field(ge=0.001, le=100_000)] | None = Field(
        default=None, description="Tasks that may be posted a second, over all its keys and all gateways."
    )
    burst: Annotated[int, Field(ge=1, le=1_000_000), INTEGRAL] | None = Field(
        default=None, description="How many tasks may be posted at once, above the rate."
    )
    max_waiting: Annotated[int, Field(ge=1, le=MAX_WAITING), INTEGRAL] | None = Field(
        default=None, description="Maximum number of tasks that have not started. Further posts get 429 `tenant.full`."
    )
    max_payload_bytes: Annotated[int, Field(ge=1, le=MAX_PAYLOAD_BYTES), INTEGRAL] | None = Field(
        default=None, description="Maximum size of a body or an upload. The gateway's own limits apply as well."
    )


class NewTenant(BaseModel):
    """A tenant to create."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=NAME)] = Field(
        description="Letters, digits and `_.-`. A key in the key file belongs to the tenant with its name."
    )
    description: _Description = _DESCRIPTION
    limits: Limits = Field(default=Limits())


class TenantChange(BaseModel):
    """Changes to a tenant. Fields that are left out stay as they are; limits are changed one by one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: _Description | None = None
    limits: Limits | None = None


class Tenant(BaseModel):
    """An application or team that uses Offload."""

    name: str
    description: str
    limits: Limits
    created_at: datetime


class TenantList(BaseModel):
    """A page of tenants."""

    data: list[Tenant]
    next: str | None
    previous: str | None


NEW_TENANT: TypeAdapter[NewTenant] = TypeAdapter(NewTenant)
TENANT_CHANGE: TypeAdapter[TenantChange] = TypeAdapter(TenantChange)
