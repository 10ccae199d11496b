"""The cache's schema in numbered steps, forward only (`gateway.sqlite`)."""
