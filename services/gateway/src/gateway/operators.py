"""The routes for operators: how the queues stand, and the dead letters."""

from __future__ import annotations

import dataclasses
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter
from starlette.convertors import Convertor, register_url_convertor

from gateway import openapi, queues, schemas, views
from gateway.bodies import json_body
from gateway.dead_letters import MOST, DeadLetters, Name, cursor_of, name_of, position_of
from gateway.problems import Problem
from gateway.requests import INTEGRAL
from offload_contracts import Queue

if TYPE_CHECKING:
    from gateway.app import Parts

_WHY = {
    "dead_letter.missing": (HTTPStatus.NOT_FOUND, "there is no such dead letter"),
    "dead_letter.unreported": (HTTPStatus.CONFLICT, "its task is being told of its end; try again in a few seconds"),
    "record.missing": (HTTPStatus.CONFLICT, "its task has no record, so it would not be run"),
    "task.ended": (HTTPStatus.CONFLICT, "its task was cancelled, or has been done since"),
}


async def _operator(request: Request) -> None:
    """Let operators pass. Asynchronous, or FastAPI would run it in a thread.

    Raises:
        Problem: 403 ``auth.scope`` for any other key.

    """
    parts: Parts = request.app.state.parts
    if not parts.keys.caller(request).is_operator:
        raise Problem(HTTPStatus.FORBIDDEN, "auth.scope", "this needs an API key with the scope operator")


class _LetterConvertor(Convertor[str]):
    """A dead letter's id in a path: it may hold a slash, and never takes what is the path of redriving."""

    regex = r"(?!redrive$).+(?<!/redrive)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("letter", _LetterConvertor())
router = APIRouter(prefix="/v1", dependencies=[Depends(_operator)])


class RedriveThese(BaseModel):
    """Dead letters to bring back, by their ids."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST)]


class RedriveQueue(BaseModel):
    """Dead letters to bring back: the newest of a queue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: Queue
    reason: str | None = Field(default=None, description="Only dead letters with this reason.")
    limit: Annotated[int, Field(ge=1, le=MOST), INTEGRAL] = Field(
        default=100, description="Maximum number of dead letters."
    )


Redrive = RedriveThese | RedriveQueue
REDRIVE: TypeAdapter[Redrive] = TypeAdapter(
    Annotated[
        Annotated[RedriveThese, Tag("ids")] | Annotated[RedriveQueue, Tag("queue")],
        Discriminator(
            lambda value: (
                next((name for name in ("ids", "queue") if name in value), None) if isinstance(value, dict) else None
            ),
            custom_error_type="redrive",
            custom_error_message="give either ids or queue",
        ),
    ]
)


@router.get("/queues", responses=openapi.responses(schemas.Queues, errors=(401, 403)), tags=["queues"])
async def get_queues(request: Request) -> Response:
    """Show how every queue stands."""
    return JSONResponse({"queues": [dataclasses.asdict(state) for state in await _queues(request)]})


@router.get("/queues/{name}", responses=openapi.responses(schemas.QueueState, errors=(401, 403, 404)), tags=["queues"])
async def get_queue(request: Request, name: str) -> Response:
    """Show how one queue stands: waiting, running, delayed, dead, and the age of what is next."""
    for state in await _queues(request):
        if state.name == name:
            return JSONResponse(dataclasses.asdict(state))
    raise Problem(HTTPStatus.NOT_FOUND, "queue.not_found", "there is no such queue")


@router.get(
    "/dead-letters", responses=openapi.responses(schemas.DeadLetters, errors=(401, 403, 422)), tags=["dead letters"]
)
async def get_dead_letters(
    request: Request,
    queue: Queue | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
) -> Response:
    """List the messages that were given up, the newest first; `next_cursor` leads to the older ones."""
    after = position_of(cursor) if cursor else None
    if cursor and after is None:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "request.invalid", "cursor: not one of ours")
    letters = await _letters(request).newest([queue] if queue else list(Queue), limit, after)
    more = cursor_of(letters[-1].position) if len(letters) == limit else None
    return JSONResponse({"dead_letters": [views.dead_letter(one) for one in letters], "next_cursor": more})


@router.post(
    "/dead-letters/redrive",
    responses=openapi.responses(schemas.RedrivenMany, errors=(401, 403, 408, 413, 415, 422)),
    openapi_extra=openapi.json_request(REDRIVE),
    tags=["dead letters"],
)
async def redrive_many(request: Request) -> Response:
    """Bring many back: by their ids, or the newest of a queue. Answers for each what became of it."""
    wanted = await json_body(request, REDRIVE)
    ids = wanted.ids if isinstance(wanted, RedriveThese) else await _of_queue(request, wanted)
    # Where Redis goes away in the middle some are back already: asked for again, they are missing, which harms nothing.
    results = [{"id": one, "outcome": await _redrive(request, Name.of(one))} for one in ids]
    redriven = sum(result["outcome"] == "redriven" for result in results)
    return JSONResponse({"redriven": redriven, "results": results})


@router.get(
    "/dead-letters/{letter_id:letter}",
    responses=openapi.responses(schemas.DeadLetter, errors=(401, 403, 404)),
    tags=["dead letters"],
)
async def get_dead_letter(request: Request, letter_id: str) -> Response:
    """Show one whole: why it was given up, who had it last, its trace, its message, and how it died before."""
    letter = await _letters(request).one(_name(letter_id))
    if letter is None:
        raise _refused("dead_letter.missing")
    return JSONResponse(views.dead_letter(letter, whole=True))


@router.post(
    "/dead-letters/{letter_id:letter}/redrive",
    responses=openapi.responses(schemas.Redriven, errors=(401, 403, 404, 409)),
    tags=["dead letters"],
)
async def redrive_one(request: Request, letter_id: str) -> Response:
    """Bring one back: its task is PENDING again, with its id, its record and its files, and its history kept."""
    name = _name(letter_id)
    outcome = await _redrive(request, name)
    if outcome != "redriven":
        raise _refused(outcome)
    return JSONResponse({"id": str(name), "outcome": outcome})


@router.delete(
    "/dead-letters/{letter_id:letter}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=openapi.problems(401, 403, 404, 409),
    tags=["dead letters"],
)
async def delete_dead_letter(request: Request, letter_id: str) -> Response:
    """Delete one for good; its task stays FAILURE, and its record lives as long as any other."""
    name = _name(letter_id)
    parts: Parts = request.app.state.parts
    outcome = await _letters(request).discard(name)
    if outcome != "deleted":
        raise _refused(outcome)
    parts.metrics.dead_letters.labels(name.queue, outcome).inc()
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _queues(request: Request) -> list[queues.QueueState]:
    parts: Parts = request.app.state.parts
    return await queues.read(parts.redis, parts.settings.broker_prefix)


def _letters(request: Request) -> DeadLetters:
    parts: Parts = request.app.state.parts
    return DeadLetters(parts.redis, parts.settings)


async def _of_queue(request: Request, wanted: RedriveQueue) -> list[str]:
    """Return the ids of the newest of a queue that died of the reason asked for."""
    found: list[str] = []
    after = None
    while len(found) < wanted.limit:
        letters = await _letters(request).newest([wanted.queue.value], MOST, after)
        found += [str(name_of(one)) for one in letters if wanted.reason in {None, one.reason}]
        if len(letters) < MOST:
            break
        after = letters[-1].position
    return found[: wanted.limit]


async def _redrive(request: Request, name: Name | None) -> str:
    if name is None:
        return "dead_letter.missing"
    outcome = await _letters(request).redrive(name)
    if outcome == "redriven":
        parts: Parts = request.app.state.parts
        parts.metrics.dead_letters.labels(name.queue, outcome).inc()
    return outcome


def _name(letter_id: str) -> Name:
    name = Name.of(letter_id)
    if name is None:
        raise _refused("dead_letter.missing")
    return name


def _refused(code: str) -> Problem:
    status, detail = _WHY[code]
    return Problem(status, code, detail)
