"""The housekeeper: does what beat asks for. It checks Redis and the blob store, reports, and cleans up."""
