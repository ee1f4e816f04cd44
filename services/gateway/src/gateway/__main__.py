"""``python -m gateway``: serve; ``new-key NAME``: make an API key; ``smoke``: try a running Offload."""

from __future__ import annotations

import argparse

from offload_core.process import exit_on_sigterm


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM, make a key, or try a running Offload."""
    # uvicorn raises the signal again for whoever had it before, when all open requests are finished: a success.
    exit_on_sigterm()
    from gateway import auth
    from gateway.configured_keys import TASKS
    from gateway.scopes import SCOPES

    parser = argparse.ArgumentParser(prog="gateway", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="serve the API (the default)")
    key = commands.add_parser("new-key", help="make an API key: printed once, kept only as its digest")
    key.add_argument("name", help="the tenant that the key belongs to")
    scopes = sorted(SCOPES | {TASKS})
    key.add_argument("--scope", action="append", choices=scopes, help="default: tasks, which is all scopes of a tenant")
    key.add_argument("--expires", help="expiry as a date or an RFC 3339 time; default: never")
    trial = commands.add_parser("smoke", help="post a photo, follow it to the mail about it, and fail if it fails")
    trial.add_argument("--url", required=True, help="the gateway; its API key is read from OFFLOAD_API_KEY")
    trial.add_argument("--mailpit", help="where the mail is looked for; without it: the mail server's yes is the end")
    trial.add_argument("--recipient", default="smoke@example.com", help="who gets the mail")
    trial.add_argument("--timeout-seconds", type=float, default=120, help="how long all of it may take")
    options = parser.parse_args(arguments)
    if options.command == "smoke":
        from gateway import smoke

        smoke.main(options.url, options.mailpit, options.recipient, options.timeout_seconds)
        return
    if options.command == "new-key":
        made, line = auth.new_key(options.name, options.scope or [TASKS], options.expires)
        print(f"API key (shown once):   {made}\nline for the key file:  {line}")
        return
    _serve()


def _serve() -> None:
    import uvicorn

    from gateway.app import create
    from gateway.protocol import BoundedProtocol
    from gateway.settings import GatewaySettings

    settings = GatewaySettings()
    BoundedProtocol.header_timeout_seconds = settings.header_timeout_seconds
    BoundedProtocol.request_timeout_seconds = settings.request_timeout_seconds
    BoundedProtocol.write_idle_seconds = settings.write_idle_seconds
    uvicorn.run(
        create(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=BoundedProtocol,
        access_log=False,
        log_config=None,
        server_header=False,
        # Nothing here looks at the client's address or scheme: what a proxy says of them need not be read.
        proxy_headers=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )


if __name__ == "__main__":
    main()
