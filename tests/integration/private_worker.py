"""A worker whose functions do with a private value what functions do by mistake: they put it into texts."""

from typing import Any

from pydantic import BaseModel, JsonValue

from offload_worker import PermanentError, Run, TemporaryError, Worker

worker = Worker("private-worker", pool="threads")


class Person(BaseModel):
    """Something private, and what the function does with it."""

    how: str
    secret: JsonValue
    open: str = "shown"


class Done(BaseModel):
    """Nothing of it."""

    length: int


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    return [str(value)]


@worker.task("private.use.v1", queue="private", max_attempts=2, backoff_seconds=0.1)
def use(message: Person, run: Run) -> Done:
    """Do what is asked for."""
    for text in _texts(message.secret):
        run.logger.info("working with %s, as %r (%s)", text, text, message.open)
        if message.how == "raise":
            raise ValueError(f"no such person: {text}")
        if message.how == "cause":
            try:
                {}[text]
            except KeyError as error:
                raise RuntimeError("it was not found") from error
        if message.how == "permanent":
            raise PermanentError("person.unknown", f"no such person: {text}", {"given": text, "more": [text]})
        if message.how == "temporary":
            raise TemporaryError("person.busy", f"{text} is busy")
    return Done(length=len(message.secret) if isinstance(message.secret, (str, list, dict)) else 0)
