"""Texts and results: strings become token ids, and logits become results, without any network."""
