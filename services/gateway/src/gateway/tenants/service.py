"""What is done with tenants."""

from __future__ import annotations

import dataclasses
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gateway.access import ChangedError, Tenant, TenantLimits
from gateway.configured_keys import RESERVED_NAMES
from gateway.problems import Problem, invalid_fields
from gateway.timestamps import rfc3339

if TYPE_CHECKING:
    from gateway.access import Access
    from gateway.dependencies import Dependencies
    from gateway.tenants.schemas import NewTenant, TenantChange


async def find(deps: Dependencies, name: str) -> Tenant:
    """Return a tenant.

    Raises:
        Problem: 404 ``tenant.not_found``.

    """
    return _of(await deps.keys.store.read(), name)


async def create(deps: Dependencies, asked: NewTenant) -> Tenant:
    """Create a tenant.

    Raises:
        Problem: 409 ``tenant.exists``, 422 ``request.invalid`` for a name that is reserved.

    """
    if asked.name in RESERVED_NAMES:
        raise invalid_fields({"name": f"{asked.name} is reserved"})
    tenant = Tenant(asked.name, round(time.time() * 1000), asked.description, TenantLimits(**asked.limits.model_dump()))

    def make(seen: Access) -> Tenant:
        if asked.name in seen.tenants:
            raise Problem(HTTPStatus.CONFLICT, "tenant.exists", "there is a tenant of this name")
        return tenant

    return await deps.keys.change(make)


async def change(deps: Dependencies, name: str, asked: TenantChange) -> Tenant:
    """Change a tenant in what is asked for. A change by somebody else meanwhile stays.

    Raises:
        Problem: 404 ``tenant.not_found``.

    """
    limits = asked.limits.model_dump(exclude_unset=True) if asked.limits else {}

    def make(seen: Access) -> Tenant:
        tenant = _of(seen, name)
        description = tenant.description if asked.description is None else asked.description
        return dataclasses.replace(tenant, description=description, limits=dataclasses.replace(tenant.limits, **limits))

    return await deps.keys.change(make)


async def delete(deps: Dependencies, name: str) -> None:
    """Delete a tenant that has no API keys. Its tasks stay.

    Raises:
        Problem: 404 ``tenant.not_found``, 409 ``tenant.in_use``.

    """
    try:
        await deps.keys.change(lambda seen: _of(seen, name), delete=True)
    except ChangedError:
        raise Problem(HTTPStatus.CONFLICT, "tenant.in_use", "the tenant has API keys; revoke them first") from None


def view(tenant: Tenant) -> dict[str, Any]:
    """Return a tenant as the API shows it."""
    return {
        "name": tenant.name,
        "description": tenant.description,
        "limits": dataclasses.asdict(tenant.limits),
        "created_at": rfc3339(tenant.created_at),
    }


def not_found() -> Problem:
    """Return what to say of a tenant that there is not."""
    return Problem(HTTPStatus.NOT_FOUND, "tenant.not_found", "there is no such tenant")


def _of(seen: Access, name: str) -> Tenant:
    found = seen.tenants.get(name)
    if found is None:
        raise not_found()
    return found
