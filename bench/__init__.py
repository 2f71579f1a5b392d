"""Benchmarks: this engine beside the reference package, in one process, as ratios."""
