"""Batches: many tasks that are posted, counted and followed together."""
