"""Acme's own task types."""
