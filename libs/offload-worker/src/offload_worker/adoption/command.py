"""``celery offload``: what Offload does with an application. Its plug-in is also how a worker finds `application`."""

from __future__ import annotations

from typing import Any

import click
from celery.bin.base import CeleryCommand
from redis.exceptions import RedisError

from celery_leases.options import InvalidOptionError
from offload_core.redis_client import cause, connect
from offload_worker.adoption import application

application.install()


@click.command(cls=CeleryCommand)
@click.pass_context
def offload(ctx: Any) -> None:  # noqa: ANN401 -- click's context
    """Show whether Offload has adopted the application, and what that changes.

    Exits with 1 when it has not, or when Redis does not answer.
    """
    app = ctx.obj.app
    try:
        found = application.settings_of(app)
    except InvalidOptionError as error:
        raise click.ClickException(str(error)) from None
    if found is None:
        raise click.ClickException("not adopted: let broker_url begin with offload+, or call offload_worker.adopt(app)")
    with app.connection_for_read() as connection:
        click.echo(f"broker          {connection.as_uri()}")
    click.echo(f"result backend  {app.backend.as_uri()}")
    click.echo(f"owner           {found.owner}")
    click.echo(f"records         {found.key_prefix}task:<task id>, kept for {found.result_expires_seconds} s")
    for name in application.changed(app):
        click.echo(f"setting         {name} = {application.REQUIRED[name]!r}, not {app.conf[name]!r}")
    for name in sorted(name for name in app.tasks if not name.startswith("celery.")):
        click.echo(f"task            {name}")
    try:
        connect(found).ping()
    except RedisError as error:
        raise click.ClickException(f"Redis does not answer ({cause(error)}): {error}") from None
