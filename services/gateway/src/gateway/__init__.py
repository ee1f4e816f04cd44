"""The gateway: accepts tasks and tells how they do. It imports neither Celery nor kombu."""
