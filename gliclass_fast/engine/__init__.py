"""The engine: it turns requests into logits, in the caller's order."""
