"""``python -m beat``: publish what is scheduled until SIGTERM. Run exactly one; a second does no harm."""

from __future__ import annotations

import signal

from offload_core.process import exit_on_sigterm


def main() -> None:
    """Start beat."""
    exit_on_sigterm()
    from beat.app import SERVICE, create, service
    from beat.settings import BeatSettings
    from offload_core import telemetry

    settings = BeatSettings()
    app = create(settings)
    started = telemetry.start(SERVICE)
    running = service(app, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: running.stop())
    running.start()
    if started is not None:
        started.shutdown()


if __name__ == "__main__":
    main()
