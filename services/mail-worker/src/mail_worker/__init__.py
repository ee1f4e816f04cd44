"""The mail worker: sends mail once. The only place that speaks SMTP."""
