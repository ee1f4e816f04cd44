"""Scopes: what an API key may do, and which scope each route asks for."""

from __future__ import annotations

from typing import Final

# A tenant's own: to look, and to change.
TENANT_SCOPES: Final = frozenset(
    f"{what}:{how}" for what in ("tasks", "schedules", "webhooks") for how in ("read", "write")
)
# Queues, dead letters, bulk operations, and what is every tenant's. Includes the scopes of a tenant.
OPERATOR: Final = "operator"
# Tenants, API keys, and what operators and administrators have done.
ADMIN: Final = "admin"
SCOPES: Final = TENANT_SCOPES | {OPERATOR, ADMIN}

# By the tag of a route. What is not here is `tasks`.
_TENANTS = {"schedules": "schedules", "webhooks": "webhooks"}
_OTHERS = {
    "queues": OPERATOR, "dead letters": OPERATOR, "bulk": OPERATOR,
    "tenants": ADMIN, "API keys": ADMIN, "audit": ADMIN,
}  # fmt: skip
# Routes whose method does not say whether they change something, or tell a secret.
_EXCEPTIONS = {
    ("POST", "/v1/schedules/preview"): "schedules:read",
    ("POST", "/v1/tokens"): "tasks:read",
    ("GET", "/v1/signing-secret"): "webhooks:write",
}


def scope_of(method: str, path: str, tag: str) -> str:
    """Return the scope that a route asks for: by its method, its path as it is declared, and its tag."""
    if found := _OTHERS.get(tag) or _EXCEPTIONS.get((method, path)):
        return found
    return f"{_TENANTS.get(tag, 'tasks')}:{'read' if method in {'GET', 'HEAD'} else 'write'}"
