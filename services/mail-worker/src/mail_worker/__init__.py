"""The mail worker: sends mail once, and keeps the house clean. The only place that speaks SMTP."""
