"""The dead letters, for operators."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.convertors import Convertor, register_url_convertor

from gateway import dependencies, openapi
from gateway.audit import route as audit
from gateway.dead_letters import schemas, views
from gateway.dead_letters.service import LIMIT, DeadLetters, Name, cursor_of, position_of
from gateway.intake.bodies import json_body
from gateway.problems import Problem
from gateway.queues import service as queues
from offload_contracts.contract import QUEUE_NAME

_REFUSALS = {
    "dead_letter.missing": (HTTPStatus.NOT_FOUND, "there is no such dead letter"),
    "dead_letter.unreported": (
        HTTPStatus.CONFLICT,
        "the failure of its task is still being recorded; try again in a few seconds",
    ),
    "record.missing": (HTTPStatus.CONFLICT, "its task has no record, so it would not be run"),
    "task.ended": (HTTPStatus.CONFLICT, "its task was cancelled, or has succeeded since"),
}


class _LetterConvertor(Convertor[str]):
    """A dead letter's id in a path: it may hold a slash, and never takes what is the path of redriving."""

    regex = r"(?!redrive$).+(?<!/redrive)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("letter", _LetterConvertor())
router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"], **audit.ROUTER)


@router.get("", response_model=schemas.DeadLetters, responses=openapi.problems(401, 403, 422))
async def get_dead_letters(
    request: Request,
    queue: Annotated[str | None, Query(pattern=f"^{QUEUE_NAME.pattern}$")] = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=LIMIT)] = 100,
) -> Response:
    """List the messages that were given up, the newest first; `next_cursor` leads to the older ones."""
    after = position_of(cursor) if cursor else None
    if cursor and after is None:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY, "request.invalid", "cursor: must be the next_cursor of an earlier answer"
        )
    deps = dependencies.of(request)
    asked = [queue] if queue else await queues.names(deps.redis, deps.settings.broker_prefix, deps.catalogue)
    dead_letters = _letters(request)
    letters = await dead_letters.newest(asked, limit, after)
    steps = await dead_letters.steps(letters)
    more = cursor_of(letters[-1].position) if len(letters) == limit else None
    shown = [views.dead_letter(one, step) for one, step in zip(letters, steps, strict=True)]
    return JSONResponse({"dead_letters": shown, "next_cursor": more})


@router.post(
    "/redrive",
    response_model=schemas.RedrivenMany,
    responses=openapi.problems(401, 403, 408, 413, 415, 422),
    openapi_extra=openapi.json_request(schemas.REDRIVE),
)
async def redrive_dead_letters(request: Request) -> Response:
    """Bring many back: by their ids, or the newest of a queue. Answers for each what became of it."""
    wanted = await json_body(request, schemas.REDRIVE)
    letters = _letters(request)
    if isinstance(wanted, schemas.RedriveThese):
        ids = list(wanted.ids)
    else:
        ids = await letters.ids_of_newest(wanted.queue, wanted.limit, wanted.reason)
    audit.note_resource(request, " ".join(ids))
    # Where Redis goes away in the middle some are back already: asked for again, they are missing, which harms nothing.
    results = [{"id": one, "outcome": await _redrive(request, letters, Name.of(one))} for one in ids]
    redriven = sum(result["outcome"] == "redriven" for result in results)
    return JSONResponse({"redriven": redriven, "results": results})


@router.get("/{letter_id:letter}", response_model=schemas.DeadLetter, responses=openapi.problems(401, 403, 404))
async def get_dead_letter(request: Request, letter_id: str) -> Response:
    """Show one in full: why it was given up, who had it last, its trace, its message, and how it died before."""
    letters = _letters(request)
    letter = await letters.one(_name(letter_id))
    if letter is None:
        raise _refused("dead_letter.missing")
    [step] = await letters.steps([letter])
    return JSONResponse(views.dead_letter(letter, step, full=True))


@router.post(
    "/{letter_id:letter}/redrive", response_model=schemas.Redriven, responses=openapi.problems(401, 403, 404, 409)
)
async def redrive_dead_letter(request: Request, letter_id: str) -> Response:
    """Bring one back: its task is PENDING again, with its id, its record and its files, and its history kept."""
    name = _name(letter_id)
    outcome = await _redrive(request, _letters(request), name)
    if outcome != "redriven":
        raise _refused(outcome)
    return JSONResponse({"id": str(name), "outcome": outcome})


@router.delete("/{letter_id:letter}", status_code=HTTPStatus.NO_CONTENT, responses=openapi.problems(401, 403, 404, 409))
async def delete_dead_letter(request: Request, letter_id: str) -> Response:
    """Delete one for good; its task stays FAILURE, and its record lives as long as any other."""
    name = _name(letter_id)
    outcome = await _letters(request).discard(name)
    if outcome != "deleted":
        raise _refused(outcome)
    dependencies.of(request).metrics.dead_letters.labels(name.queue, outcome).inc()
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _letters(request: Request) -> DeadLetters:
    deps = dependencies.of(request)
    return DeadLetters(deps.redis, deps.settings.broker_prefix, deps.tasks)


async def _redrive(request: Request, letters: DeadLetters, name: Name | None) -> str:
    if name is None:
        return "dead_letter.missing"
    outcome = await letters.redrive(name)
    if outcome == "redriven":
        dependencies.of(request).metrics.dead_letters.labels(name.queue, outcome).inc()
    return outcome


def _name(letter_id: str) -> Name:
    name = Name.of(letter_id)
    if name is None:
        raise _refused("dead_letter.missing")
    return name


def _refused(code: str) -> Problem:
    status, detail = _REFUSALS[code]
    return Problem(status, code, detail)
