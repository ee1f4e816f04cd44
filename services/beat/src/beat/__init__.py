"""Beat: publishes what is scheduled, each slot exactly once, and sweeps the broker."""
