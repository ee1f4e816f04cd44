"""Schedules: tasks that are run again and again."""
