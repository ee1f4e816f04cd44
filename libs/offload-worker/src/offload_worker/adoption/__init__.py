"""Running a plain Celery application's unchanged tasks on Offload: ``broker_url = "offload+redis://…"``.

`transport` publishes messages with their records, `application` prepares a worker, `gate` asks the record before each
run, and `results` tells it what came of the run, beside the application's own result backend. `scheme` is how kombu
finds the transport, and `command` is ``celery offload``.
"""
