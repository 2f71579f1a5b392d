"""Serving: the engine behind HTTP, on Ray Serve, and in batch jobs of Ray Data."""
