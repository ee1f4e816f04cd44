"""Posts tasks to Offload with the transaction that asks for them, or not at all."""
