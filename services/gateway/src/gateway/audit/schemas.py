"""What the API says of the audit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from gateway.intake.fields import Moment
from gateway.paging import PageQuery

_Text = Annotated[str, Field(min_length=1, max_length=200)]


class AuditRow(BaseModel):
    """One request of an operator or an administrator, successful or refused."""

    at: datetime
    actor: str = Field(description="The tenant that the API key belongs to.")
    key_prefix: str = Field(description="The first characters of the API key.")
    action: str = Field(description="Like `pause_queue`.")
    resource_type: str
    resource_id: str
    ip: str = Field(description="The address that the request came from; behind a proxy, that of the proxy.")
    user_agent: str
    trace_id: str
    result: int = Field(description="HTTP status of the response.")


class AuditList(BaseModel):
    """A page of the audit."""

    data: list[AuditRow]
    next: str | None
    previous: str | None


class AuditFilter(PageQuery):
    """Which rows are listed."""

    actor: _Text | None = Field(default=None, description="Only requests with keys of this tenant.")
    action: _Text | None = Field(default=None, description="Only this action.")
    resource_id: _Text | None = Field(default=None, description="Only requests about this resource.")
    created_after: Moment | None = Field(default=None, description="Not before this moment.")
    created_before: Moment | None = Field(default=None, description="Before this moment.")

    def takes(self, row: dict[str, Any]) -> bool:
        """Return whether a row is wanted, by what is not its time."""
        return all(
            wanted is None or row[name] == wanted
            for name, wanted in (("actor", self.actor), ("action", self.action), ("resource_id", self.resource_id))
        )

    def bounds(self) -> tuple[str, str]:
        """Return the first and the last id of the stream that are wanted."""
        first = "-" if self.created_after is None else str(_since_epoch(self.created_after))
        last = "+" if self.created_before is None else str(max(_since_epoch(self.created_before) - 1, 0))
        return first, last


def _since_epoch(moment: datetime) -> int:
    """Return a moment in ms; what was before the epoch is at its beginning."""
    return max(round(moment.timestamp() * 1000), 0)
