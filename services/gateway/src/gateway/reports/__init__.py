"""Posting reports."""
