"""Doing one thing to many tasks."""
