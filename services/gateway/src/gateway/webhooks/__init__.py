"""Endpoints that are told of events by HTTP."""
