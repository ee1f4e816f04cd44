"""``python -m celery_leases``: look at the queues' depth and at the dead letters, from a shell."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import redis

from celery_leases import __version__
from celery_leases.admin import Admin, Depth, UnknownDeadLetterError
from celery_leases.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    root = argparse.ArgumentParser(prog="celery-leases", description=__doc__)
    root.add_argument("--version", action="version", version=__version__)
    root.add_argument(
        "--url",
        default=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"),
        help="the broker (default: $CELERY_BROKER_URL, or redis://localhost:6379/0)",
    )
    root.add_argument("--key-prefix", default=Options().key_prefix, help="the option key_prefix (default: %(default)s)")
    root.add_argument("--json", action="store_true", help="print JSON, one object a line")
    commands = root.add_subparsers(dest="command", required=True)
    depth = commands.add_parser("depth", help="messages waiting, running, delayed and dead, per queue")
    depth.add_argument("queue", nargs="*", help="only these queues (default: all)")
    pause = commands.add_parser(
        "pause", help="stop delivering messages of a queue: running tasks finish, new messages wait"
    )
    pause.add_argument("queue")
    pause.add_argument("--note", default="", help="why")
    pause.add_argument("--seconds", type=_positive(float), help="resume by itself after so long (default: never)")
    resume = commands.add_parser("resume", help="deliver messages of a paused queue again")
    resume.add_argument("queue")
    limit = commands.add_parser("limit", help="limit the deliveries of a queue; without options, remove its limits")
    limit.add_argument("queue")
    limit.add_argument("--max-running", type=_positive(int), help="maximum number of messages that run at once")
    limit.add_argument("--rate-per-second", type=_positive(float), help="average number of deliveries per second")
    letters = commands.add_parser("dead-letters", help="messages that were given up")
    actions = letters.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="the newest dead letters, newest first")
    listing.add_argument("queue", nargs="*", help="only these queues (default: all)")
    listing.add_argument("--most", type=int, default=100, help="maximum for all queues together (default: %(default)s)")
    for name, text in (
        ("show", "one dead letter in full"),
        ("redrive", "put a dead letter back to its queue"),
        ("delete", "delete a dead letter for good"),
    ):
        one = actions.add_parser(name, help=text)
        one.add_argument("queue")
        one.add_argument("message_key", help="its name, as `list` prints it")
    return root


def _positive[Number: (int, float)](number: Callable[[str], Number]) -> Callable[[str], Number]:
    def parse(text: str) -> Number:
        value = number(text)
        if not value > 0:
            raise argparse.ArgumentTypeError("must be more than 0")
        return value

    return parse


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when the dead letter does not exist, 2 when Redis cannot be reached."""
    options = parser().parse_args(arguments)
    admin = Admin(redis.Redis.from_url(options.url), options.key_prefix)
    try:
        if options.command == "depth":
            _depth(admin, options)
        elif options.command == "pause":
            until_ms = None if options.seconds is None else round((time.time() + options.seconds) * 1000)
            admin.pause(options.queue, options.note, until_ms)
            print(f"paused: {options.queue}")
        elif options.command == "resume":
            admin.resume(options.queue)
            print(f"resumed: {options.queue}")
        elif options.command == "limit":
            admin.limit(options.queue, max_running=options.max_running, rate_per_second=options.rate_per_second)
            print(f"limited: {options.queue}")
        else:
            _dead_letters(admin, options)
    except UnknownDeadLetterError as error:
        print(f"celery-leases: {error}", file=sys.stderr)
        return 1
    except redis.RedisError as error:
        print(f"celery-leases: Redis cannot be reached: {error}", file=sys.stderr)
        return 2
    return 0


def _depth(admin: Admin, options: argparse.Namespace) -> None:
    columns = ["queue", "waiting", "running", "delayed", "dead", "paused", "max_running", "rate_per_second"]
    rows = [_row(depth) for depth in admin.depths(options.queue or admin.queues())]
    _print(rows, columns, as_json=options.json)


def _row(depth: Depth) -> dict[str, object]:
    counts = {name: getattr(depth, name) for name in ("queue", "waiting", "running", "delayed", "dead")}
    return counts | {"paused": depth.pause is not None} | asdict(depth.limits)


def _dead_letters(admin: Admin, options: argparse.Namespace) -> None:
    if options.action == "list":
        letters = admin.dead_letters(options.queue or admin.queues(), options.most)
        rows = [
            {
                "queue": letter.queue,
                "message_key": letter.message_key,
                "task": letter.message.get("headers", {}).get("task", ""),
                "reason": letter.reason,
                "deliveries": letter.deliveries,
                "died_at": datetime.fromtimestamp(letter.died_at_ms / 1000, UTC).isoformat(timespec="seconds"),
                "reported": letter.reported,
            }
            for letter in letters
        ]
        _print(
            rows, ["queue", "message_key", "task", "reason", "deliveries", "died_at", "reported"], as_json=options.json
        )
    elif options.action == "show":
        print(json.dumps(asdict(admin.dead_letter(options.queue, options.message_key)), indent=2))
    elif options.action == "redrive":
        admin.redrive(options.queue, options.message_key)
        print(f"redriven: {options.queue} {options.message_key}")
    else:
        admin.discard(options.queue, options.message_key)
        print(f"deleted: {options.queue} {options.message_key}")


def _print(rows: list[dict[str, object]], columns: list[str], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    table = [columns, *(["-" if row[column] is None else str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[position]) for line in table) for position in range(len(columns))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
