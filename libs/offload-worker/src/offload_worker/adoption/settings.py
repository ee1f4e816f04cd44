"""What an adopted application reads of the environment, in its workers as in the processes that publish."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import Field, ValidationError

from celery_leases.options import InvalidOptionError
from offload_core.settings import ConsumerSettings, DrainSettings, Settings


class AdoptionSettings(Settings, ConsumerSettings, DrainSettings):
    """The records, how a worker holds messages, and how it stops. The rest is Celery's, the address too."""

    owner: str = Field(
        default="celery",
        min_length=1,
        description="Name of the API key that owns the tasks of an adopted Celery application: it may see and cancel "
        "them, as operators' keys may.",
    )


@cache
def read(redis_url: str | None) -> AdoptionSettings:
    """Return the settings, with this address or that of the environment.

    Raises:
        InvalidOptionError: with what is wrong about them.

    """
    given: dict[str, Any] = {"redis_url": redis_url} if redis_url else {}
    try:
        return AdoptionSettings(**given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        message = f"Offload's settings cannot be used: {wrong}"
        raise InvalidOptionError(message) from None
