"""Lists in pages: signed cursors, the members `next` and `previous`, the Link header (RFC 8288)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway import dependencies
from gateway.problems import Problem, invalid_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis.asyncio
    from fastapi import Request

# Of a SHA-256, what stands in a cursor.
_DIGEST_BYTES = 12


class PageQuery(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, Field(ge=1, le=100)] = Field(default=25, description="Items of a page at most.")
    after: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="The `next` of an earlier page: what is older."
    )
    before: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="The `previous` of an earlier page: what is newer."
    )

    def filters(self) -> dict[str, Any]:
        """Return what is asked for on every page of the same list."""
        return self.model_dump(mode="json", exclude={"limit", "after", "before"}, exclude_defaults=True)


@dataclass(frozen=True, slots=True)
class Cursors:
    """The cursors of one list with its filters: nobody else's, and none of another list."""

    secret: str
    # The list's path, whose it is, and its filters.
    scope: tuple[Any, ...]

    def write(self, place: Sequence[Any]) -> str:
        """Return the cursor of a place, which is what JSON can hold."""
        text = json.dumps(place, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._scope() + self._mac(text) + text).decode().rstrip("=")

    def read(self, cursor: str) -> list[Any]:
        """Return the place of a cursor.

        Raises:
            Problem: 400 ``cursor.invalid`` where it is none of ours, ``cursor.mismatch`` where it is of another list.

        """
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        scope, mac, text = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES : 2 * _DIGEST_BYTES], raw[2 * _DIGEST_BYTES :]
        if not hmac.compare_digest(mac, self._digest(scope, text)):
            raise Problem(HTTPStatus.BAD_REQUEST, "cursor.invalid", "the cursor is not one of an earlier answer")
        if scope != self._scope():
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                "cursor.mismatch",
                "the cursor belongs to a list with other filters, or another key",
            )
        place: list[Any] = json.loads(text)
        return place

    def _scope(self) -> bytes:
        return hashlib.sha256(json.dumps(self.scope, sort_keys=True).encode()).digest()[:_DIGEST_BYTES]

    def _mac(self, text: bytes) -> bytes:
        return self._digest(self._scope(), text)

    def _digest(self, scope: bytes, text: bytes) -> bytes:
        return hmac.digest(self.secret.encode(), b"cursor:" + scope + text, "sha256")[:_DIGEST_BYTES]


def check(query: PageQuery) -> None:
    """Refuse a query for two pages at once.

    Raises:
        Problem: 422 ``request.invalid``.

    """
    if query.after and query.before:
        raise invalid_fields({"before": "give either after or before"})


def answer(
    request: Request, items: list[dict[str, Any]], *, following: str | None, preceding: str | None
) -> JSONResponse:
    """Return a page, with the cursors of the pages around it; None where there is none."""
    links = [
        f'<{request.url.path}?{_query(request, name, cursor)}>; rel="{relation}"'
        for name, cursor, relation in (("after", following, "next"), ("before", preceding, "prev"))
        if cursor
    ]
    headers = {"Link": ", ".join(links)} if links else {}
    return JSONResponse({"data": items, "next": following, "previous": preceding}, headers=headers)


def place(request: Request, query: PageQuery, owner: str) -> tuple[Cursors, list[Any] | None, bool]:
    """Return the cursors of a list, the place that a query begins at, and whether it wants what is newer.

    Raises:
        Problem: those of `check` and of `Cursors.read`.

    """
    check(query)
    secret = dependencies.of(request).settings.link_secret.get_secret_value()
    cursors = Cursors(secret, (request.url.path, owner, query.filters()))
    cursor = query.before or query.after
    return cursors, cursors.read(cursor) if cursor else None, query.before is not None


async def newest(
    client: redis.asyncio.Redis, key: str, limit: int, place: list[Any] | None, *, newer: bool
) -> tuple[list[str], bool]:
    """Return members of a sorted set behind a place (score and member), the newest first, and whether there are more.

    With `newer`, those before it.
    """
    rows: Any = await client.zrange(key, 0, -1, desc=not newer, withscores=True)
    places = [[int(score), member.decode()] for member, score in rows]
    if place is not None:
        places = [one for one in places if (one > place if newer else one < place)]
    found = [member for _, member in places[:limit]]
    return found[::-1] if newer else found, len(places) > limit


def all_of(request: Request, query: PageQuery, rows: Sequence[tuple[dict[str, Any], list[Any]]]) -> JSONResponse:
    """Return a page of rows that are all there, each with its place, of which the greatest comes first.

    Raises:
        Problem: those of `place`.

    """
    cursors, begin, newer = place(request, query, "")
    beyond = sorted(
        (row for row in rows if begin is None or (row[1] > begin if newer else row[1] < begin)),
        key=lambda row: row[1],
        reverse=not newer,
    )
    found = beyond[: query.limit]
    return page(request, cursors, found[::-1] if newer else found, begin, newer=newer, more=len(beyond) > query.limit)


def page(
    request: Request,
    cursors: Cursors,
    rows: list[tuple[dict[str, Any], list[Any]]],
    place: list[Any] | None,
    *,
    newer: bool,
    more: bool,
) -> JSONResponse:
    """Return a page of rows, each with its place; `more` is whether there are others in the direction asked for."""
    first, last = (rows[0][1], rows[-1][1]) if rows else (place, place)
    following = last if (newer or more) and rows else None
    preceding = first if (more if newer else place is not None) and rows else None
    return answer(
        request,
        [row for row, _ in rows],
        following=cursors.write(following) if following else None,
        preceding=cursors.write(preceding) if preceding else None,
    )


def _query(request: Request, name: str, cursor: str) -> str:
    kept = [(key, value) for key, value in request.query_params.multi_items() if key not in {"after", "before"}]
    return urlencode([*kept, (name, cursor)])
