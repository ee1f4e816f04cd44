"""What every service of Offload needs. Nothing here imports Celery or kombu: the gateway has neither."""
