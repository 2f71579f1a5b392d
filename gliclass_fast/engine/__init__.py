"""Requests -> logits, in the caller's order."""
