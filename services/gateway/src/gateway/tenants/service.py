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
    from gateway.dependencies import Dependencies
    from gateway.tenants.schemas import NewTenant, TenantChange


async def find(deps: Dependencies, name: str) -> Tenant:
    """Return a tenant.

    Raises:
        Problem: 404 ``tenant.not_found``.

    """
    found = (await deps.keys.store.read()).tenants.get(name)
    if found is None:
        raise not_found()
    return found


async def create(deps: Dependencies, asked: NewTenant) -> Tenant:
    """Create a tenant.

    Raises:
        Problem: 409 ``tenant.exists``, 422 ``request.invalid`` for a name that is reserved.

    """
    if asked.name in RESERVED_NAMES:
        raise invalid_fields({"name": f"{asked.name} is reserved"})
    store = deps.keys.store
    seen = await store.read()
    tenant = Tenant(asked.name, round(time.time() * 1000), asked.description, TenantLimits(**asked.limits.model_dump()))
    exists = Problem(HTTPStatus.CONFLICT, "tenant.exists", "there is a tenant of this name")
    if asked.name in seen.tenants:
        raise exists
    try:
        await store.change(seen, tenant)
    except ChangedError:
        raise exists from None
    await deps.keys.refresh()
    return tenant


async def change(deps: Dependencies, name: str, asked: TenantChange) -> Tenant:
    """Change a tenant in what is asked for. A change by somebody else meanwhile stays.

    Raises:
        Problem: 404 ``tenant.not_found``.

    """
    limits = asked.limits.model_dump(exclude_unset=True) if asked.limits else {}
    while True:
        seen = await deps.keys.store.read()
        tenant = seen.tenants.get(name)
        if tenant is None:
            raise not_found()
        tenant = dataclasses.replace(
            tenant,
            description=tenant.description if asked.description is None else asked.description,
            limits=dataclasses.replace(tenant.limits, **limits),
        )
        try:
            await deps.keys.store.change(seen, tenant)
        except ChangedError:
            continue
        await deps.keys.refresh()
        return tenant


async def delete(deps: Dependencies, name: str) -> None:
    """Delete a tenant that has no API keys. Its tasks stay.

    Raises:
        Problem: 404 ``tenant.not_found``, 409 ``tenant.in_use``.

    """
    seen = await deps.keys.store.read()
    tenant = seen.tenants.get(name)
    if tenant is None:
        raise not_found()
    try:
        await deps.keys.store.change(seen, tenant, delete=True)
    except ChangedError as error:
        if error.why == "in_use":
            raise Problem(HTTPStatus.CONFLICT, "tenant.in_use", "the tenant has API keys; revoke them first") from None
        await delete(deps, name)
    await deps.keys.refresh()


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
