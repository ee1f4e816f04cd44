"""What comes in: bodies, uploads and their memory, idempotency keys, the types of fields."""
