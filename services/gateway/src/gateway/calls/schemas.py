"""What a post of a call may ask for."""

from __future__ import annotations

from pydantic import ConfigDict, TypeAdapter

from gateway.intake.fields import USER_ID, TaskRequest, UserId
from offload_contracts.calls import Call


class CallRequest(TaskRequest, Call):
    """One request to an HTTP server."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_by_name=False,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    user_id: UserId | None = USER_ID


CALL: TypeAdapter[CallRequest] = TypeAdapter(CallRequest)
