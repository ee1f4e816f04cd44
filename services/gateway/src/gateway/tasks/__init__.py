"""Tasks: accepting, showing and cancelling them, and the files they made."""
