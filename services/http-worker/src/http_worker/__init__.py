"""Calls other HTTP servers: the only service that does."""
