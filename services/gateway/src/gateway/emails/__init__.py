"""Posting mails."""
