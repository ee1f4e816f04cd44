"""How a service of Offload boots: settings, records, blobs, logs, telemetry, and the Celery application.

The modules that the gateway uses (settings, keys, messages, records, blobs, links, logs, telemetry) import no Celery.
"""
