"""Events of tasks as they happen: server-sent events, and tokens for browsers that follow one task."""
