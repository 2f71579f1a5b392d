"""Strings in, token ids out; logits in, results out. No network."""
