"""Posting images."""
