"""Calling an HTTP server."""
