"""Beat: publishes what is scheduled, each occurrence exactly once, and sweeps the broker."""
