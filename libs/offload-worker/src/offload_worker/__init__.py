"""What runs tasks: the Celery application, its result backend, and all that a step needs."""
